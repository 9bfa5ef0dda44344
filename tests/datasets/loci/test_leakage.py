import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.datasets.loci import leakage
from cisray.datasets.loci.folds import SPLITS, FoldSpec, Region
from cisray.datasets.loci.homology import AlignmentFile, HomologySpec, divide_homologous
from cisray.datasets.loci.leakage import SketchSpec, aligned_bases, read_across, shared_sequence, word_hashes
from cisray.datasets.loci.tiling import Shard
from cisray.errors import InputError
from cisray.files import write_json
from cisray.genome.intervals import Interval
from cisray.genome.sequence import decode, encode, reverse_complement
from cisray.geometry import Geometry


def genome_of(contigs):
    """Return the callable that gives the codes of an interval, N beyond a contig's ends."""

    def codes(contig, start, end):
        whole = contigs[contig]
        flank = np.full(20, 4, np.uint8)
        return np.concatenate([flank, whole, flank])[start + 20 : end + 20]

    return codes


def regions_of(**widths):
    return [Region(Interval(split, 0, width), split, 0) for split, width in widths.items()]


def canonical(word):
    other = decode(reverse_complement(encode(word)))
    return min(word, other)


@given(st.text("ACGTN", max_size=60), st.sampled_from([1, 3, 5, 7, 21, 31]))
def test_words_have_one_hash_whichever_strand_is_read(bases, k):
    hashes, valid = word_hashes(encode(bases), k)
    words = [bases[start : start + k] for start in range(max(0, len(bases) - k + 1))]
    assert valid.tolist() == ["N" not in word for word in words]
    turned, turned_valid = word_hashes(reverse_complement(encode(bases)), k)
    assert turned[::-1][valid].tolist() == hashes[valid].tolist()
    assert turned_valid[::-1].tolist() == valid.tolist()
    known = {}
    for word, value in zip(words, hashes.tolist(), strict=True):
        if "N" not in word:  # equal words, equal hashes; other words, other hashes
            assert known.setdefault(canonical(word), value) == value
    assert len(set(known.values())) == len(known)


def slow_sharing(regions, contigs, k):
    """Count for every pair of splits the words of the first that the second has, by dictionaries of letters."""
    words = {split: [] for split in SPLITS}
    for region in regions:
        bases = decode(genome_of(contigs)(region.interval.contig, region.interval.start, region.interval.end))
        found = [bases[start : start + k] for start in range(len(bases) - k + 1)]
        words[region.split] += [canonical(word) for word in found if "N" not in word]
    return {
        (one, other): (sum(word in set(words[other]) for word in words[one]), len(words[one]))
        for one, other in itertools.permutations(SPLITS, 2)
    }


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from([3, 5, 9]), st.sampled_from([20, 64, 1 << 20]))
def test_every_word_is_compared_where_none_is_left_out(seed, k, at_once):
    random = np.random.default_rng(seed)
    contigs = {split: random.choice([0, 1, 2, 3, 3, 4], 150).astype(np.uint8) for split in SPLITS}
    regions = [
        Region(Interval(split, start, end), role, 0)
        for split, role in zip(SPLITS, random.permutation(SPLITS), strict=True)
        for start, end in itertools.pairwise(sorted({-4, *random.integers(0, 150, 3).tolist(), 155}))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "_AT_ONCE_BP", at_once)
        report = shared_sequence(regions, genome_of(contigs), spec=SketchSpec(k=k, stretch_bp=31))
    assert report.sampled_one_in == 1
    truth = slow_sharing(regions, contigs, k)
    assert {(pair.split, pair.other): pair.shared_bp for pair in report.pairs} == {
        key: count for key, (count, _) in truth.items()
    }
    for pair in report.pairs:
        count, whole = truth[pair.split, pair.other]
        assert pair.fraction == pytest.approx(count / max(1, whole))
        assert pair.standard_error_bp == 0


@pytest.fixture
def copied():
    """Half a million random bases per split; 30 kb of train stand in test, 8 kb turned round in valid."""
    random = np.random.default_rng(11)
    contigs = {split: random.integers(0, 4, 500_000).astype(np.uint8) for split in SPLITS}
    contigs["test"][200_000:230_000] = contigs["train"][50_000:80_000]
    contigs["valid"][410_000:418_000] = reverse_complement(contigs["train"][300_000:308_000])
    contigs["train"][10:20] = 4
    return contigs


def test_copies_are_found_within_the_error_of_the_sample(copied):
    regions = regions_of(train=500_000, valid=500_000, test=500_000)
    report = shared_sequence(regions, genome_of(copied), spec=SketchSpec(max_words=100_000, stretch_bp=10_000))
    assert report.sampled_one_in == 15
    assert report.num_words == pytest.approx(100_000, rel=0.02)
    truth = {frozenset(("train", "test")): 29_970, frozenset(("train", "valid")): 7_970}
    for pair in report.pairs:
        known = truth.get(frozenset((pair.split, pair.other)), 0)
        assert abs(pair.shared_bp - known) <= 4 * pair.standard_error_bp
        # one in 15 of 29,970 words is kept: an error of 15 sqrt(1998 14/15)
        assert pair.standard_error_bp == pytest.approx((15 * known * 14 / 15) ** 0.5, rel=0.1)
        assert pair.fraction == pytest.approx(pair.shared_bp / 499_970, rel=1e-3)
    inside = {f"train:{start}-{start + 10_000}" for start in (50_000, 60_000, 70_000)}
    inside |= {f"test:{start}-{start + 10_000}" for start in (200_000, 210_000, 220_000)}
    assert {one.region for one in report.worst[:6]} == inside
    assert [one.fraction > 0.95 for one in report.worst[:8]] == [True] * 6 + [False] * 2
    assert {one.region: one.other for one in report.worst[6:]} == {
        "train:300000-310000": "valid",
        "valid:410000-420000": "train",
    }
    assert len(report.worst) == 8


def test_words_that_occur_often_are_sampled_together_and_so_less_surely():
    random = np.random.default_rng(4)
    contigs = {split: random.integers(0, 4, 40_000).astype(np.uint8) for split in SPLITS}
    unit = random.integers(0, 4, 1000).astype(np.uint8)
    contigs["train"][:20_000] = np.tile(unit, 20)
    contigs["test"][:1000] = unit
    regions = regions_of(train=40_000, valid=40_000, test=40_000)
    report = shared_sequence(regions, genome_of(contigs), spec=SketchSpec(max_words=12_000))
    error = {(pair.split, pair.other): pair.standard_error_bp for pair in report.pairs}
    assert error["train", "test"] == pytest.approx(20 * error["test", "train"], rel=0.05)


def test_a_report_is_plain_values(copied, tmp_path):
    regions = regions_of(train=3000, valid=3000, test=3000)
    write_json(tmp_path / "one.json", dataclasses.asdict(shared_sequence(regions, genome_of(copied))))
    again = shared_sequence(regions, genome_of(copied))
    assert dataclasses.asdict(again) == dataclasses.asdict(shared_sequence(regions, genome_of(copied)))
    assert again.worst == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 30}, "k=30; wanted an odd number of bases, at most 31"),
        ({"k": 33}, "k=33"),
        ({"max_words": 0}, "max_words=0, .*wanted positive numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        SketchSpec(**fields)


# a repeated base of the target, two strands, a contig that the query lacks
CHAINS = """chain 9 a 100 + 10 60 b 100 - 20 72 1
20 10 12
20

chain 9 a 100 + 15 25 b 100 + 0 10 2
10

chain 9 a 100 + 15 25 x 100 + 0 10 3
10
"""


def test_aligned_bases_of_every_pair_of_splits(tmp_path):
    (tmp_path / "ab.chain").write_text(CHAINS)
    target = [Region(Interval("a", start, end), split, 0) for start, end, split in ((0, 20, "train"), (20, 50, "test"))]
    query = [Region(Interval("b", start, end), split, 0) for start, end, split in ((0, 70, "train"), (70, 95, "valid"))]
    report = aligned_bases(tmp_path / "ab.chain", (target, {"a": 100}), (query, {"b": 100}))
    # of the first chain 10-30 is aligned with 60-80 and 40-60 with 28-48, backwards; the second is 15-25 with 0-10
    pairs = {10 + i: 79 - i for i in range(20)} | {40 + i: 47 - i for i in range(20)}
    both = [*pairs.items(), *((15 + i, i) for i in range(10))]
    truth = {}
    for base, other in both:
        one = next((r.split for r in target if r.interval.start <= base < r.interval.end), None)
        two = next((r.split for r in query if r.interval.start <= other < r.interval.end), None)
        if one and two:
            truth.setdefault((one, two), (set(), set()))[0].add(base)
            truth[one, two][1].add(other)
    assert {(p.target_split, p.query_split): (p.target_bp, p.query_bp) for p in report.pairs} == {
        key: tuple(map(len, truth.get(key, ((), ())))) for key in itertools.product(SPLITS, SPLITS)
    }
    assert report.leaked_bp == len(set().union(*(bases for (a, b), (bases, _) in truth.items() if a != b)))
    assert report.skipped == 1
    (one,) = [p for p in report.pairs if (p.target_split, p.query_split) == ("train", "valid")]
    assert one.target_fraction == one.target_bp / 20
    assert one.query_fraction == one.query_bp / 25
    write_json(tmp_path / "report.json", dataclasses.asdict(report))


def test_genomes_that_were_divided_together_leak_nothing(tmp_path):
    genomes = {"A": {"a": 6000}, "B": {"b": 6000}}
    random = np.random.default_rng(2)
    order = random.permutation(60)
    lines = []
    for place, segment in enumerate(order.tolist()):
        start, at = segment * 100, place * 100
        strand = "-" if place % 2 else "+"
        at = 6000 - at - 100 if strand == "-" else at
        lines.append(f"chain 9 a 6000 + {start} {start + 100} b 6000 {strand} {at} {at + 100} {place}\n100\n")
    (tmp_path / "ab.chain").write_text("\n".join(lines))
    aligned = AlignmentFile(file="ab.chain", target="A", query="B")

    def leaked(regions):
        sides = [(regions[name], lengths) for name, lengths in genomes.items()]
        return aligned_bases(tmp_path / "ab.chain", *sides).leaked_bp

    folds = FoldSpec(num_folds=4, break_bp=100)
    spec = HomologySpec(alignments=(aligned,), folds=folds, min_aligned_bp=1, min_span_bp=0)
    together = divide_homologous(spec, genomes, data_dir=str(tmp_path))
    assert together.summary.num_components == 60
    assert leaked(together.regions) == 0
    apart = dataclasses.replace(spec, min_aligned_bp=101)
    assert leaked(divide_homologous(apart, genomes, data_dir=str(tmp_path)).regions) > 1000


def test_intervals_that_come_in_any_order_are_merged_now_and_then(monkeypatch):
    monkeypatch.setattr(leakage, "_MOST_PENDING", 5)
    union, held = leakage._Union(), np.zeros(300, bool)
    random = np.random.default_rng(1)
    for start in random.integers(0, 290, 60).tolist():
        union.add("c", np.array([start]), np.array([start + 7]))
        held[start : start + 7] = True
    union.add("d", np.array([5]), np.array([6]))
    assert union.num_bases == held.sum() + 1


def test_what_windows_read_of_their_neighbours():
    geometry = Geometry(window_bp=20, bin_bp=5, crop_bins=1, margin_bp=2)
    regions = [Region(Interval("c", 20, 40), "train", 0, (15, 25)), Region(Interval("c", 40, 50), "test", 2, (35,))]
    shards = [Shard("c", 15, 10, 2, "train", 0), Shard("c", 35, 10, 1, "test", 2)]
    found = {(one.split, one.other): one.read_bp for one in read_across(shards, regions, geometry)}
    assert found == dict.fromkeys(itertools.permutations(SPLITS, 2), 0) | {("train", "test"): 7, ("test", "train"): 7}


def test_a_genome_of_another_assembly_is_refused(tmp_path):
    (tmp_path / "ab.chain").write_text(CHAINS)
    with pytest.raises(InputError, match="'a' has 100 bases there and 99 in the genome"):
        aligned_bases(tmp_path / "ab.chain", ([], {"a": 99}), ([], {"b": 100}))
