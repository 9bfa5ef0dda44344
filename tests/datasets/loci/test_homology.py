import dataclasses
from collections import Counter

import numpy as np
import pytest

from cisray.datasets.loci.dealing import ALWAYS_TRAIN
from cisray.datasets.loci.folds import FoldSpec, assign_regions, write_regions
from cisray.datasets.loci.homology import AlignmentFile, HomologySpec, cut_blocks, divide_homologous, layers
from cisray.datasets.loci.regions import Spans
from cisray.errors import InputError
from cisray.files import write_json
from cisray.genome.alignments import read_alignments
from cisray.genome.intervals import Interval

A = {"a1": 5000, "a2": 3000, "a3": 2000, "a4": 700}
BETWEEN = AlignmentFile(file="ab.chain", target="A", query="B")


def spec_of(*alignments, extent="blocks", **fields):
    folds = {"num_folds": 4, "break_bp": 250} | {name: fields.pop(name) for name in list(fields) if name in FOLDS}
    fields = {"min_aligned_bp": 1, "min_span_bp": 0} | fields
    return HomologySpec(alignments=alignments or (BETWEEN,), folds=FoldSpec(**folds), extent=extent, **fields)


FOLDS = {"num_folds", "break_bp", "valid_fraction", "test_fraction", "abstain_fraction", "seed"}


@dataclasses.dataclass
class Rearranged:
    """Genome B is genome A cut up, shuffled and half of it turned round; `partner` says where a base of A went."""

    lengths: dict[str, int]
    partner: dict[tuple[str, int], tuple[str, int]]


@pytest.fixture(params=[(0, 130), (1, 320), (2, 1900)], ids=["short", "middling", "long"])
def rearranged(request, tmp_path):
    """Write the chain of every segment, with gaps on either side, and return the truth base by base."""
    seed, mean_bp = request.param
    random = np.random.default_rng(seed)
    segments = []
    for contig, length in A.items():
        start = 0
        while start < length - 40:
            end = min(length, start + int(random.integers(mean_bp // 2, 3 * mean_bp // 2)))
            segments.append((contig, start, end))
            start = end + int(random.integers(0, 30))
    placed, lengths = [], {}
    for number, chosen in enumerate(np.array_split(random.permutation(len(segments)), 3)):
        at = 5
        for index in chosen.tolist():
            placed.append((segments[index], f"b{number}", at, bool(random.random() < 0.5)))
            at += segments[index][2] - segments[index][1] + int(random.integers(0, 20))
        lengths[f"b{number}"] = at + 100
    lines, partner = [], {}
    for (contig, start, end), other, at, turned in placed:
        other_bp = lengths[other]
        blocks, target, query = [], start, 0  # query: bases from the segment's beginning on B's strand that is read
        while True:
            size = min(int(random.integers(5, 60)), end - target)
            pairs = [(target + i, query + i) for i in range(size)]
            for base, offset in pairs:
                last = at + (end - start) - 1
                partner[contig, base] = (other, last - offset if turned else at + offset)
            gap, other_gap = int(random.integers(1, 6)), int(random.integers(0, 3))
            if target + size + gap + 5 > end or query + size + other_gap + 65 > end - start:
                blocks.append(f"{size}")
                break
            blocks.append(f"{size} {gap} {other_gap}")
            target, query = target + size + gap, query + size + other_gap
        first = other_bp - (at + end - start) if turned else at
        strand = "-" if turned else "+"
        lines.append(
            f"chain 1000 {contig} {A[contig]} + {start} {target + size} "
            f"{other} {other_bp} {strand} {first} {first + query + size} {len(lines) + 1}"
        )
        lines += [*blocks, ""]
    (tmp_path / "ab.chain").write_text("\n".join(lines) + "\n")
    return Rearranged(lengths, partner)


def owners(regions):
    """Return which region, split and fold holds each base."""
    return {
        (region.interval.contig, base): (number, region.split, region.fold)
        for number, region in enumerate(regions)
        for base in range(region.interval.start, region.interval.end)
    }


def pieces_of(lengths, break_bp):
    return [
        Interval(contig, start, min(start + break_bp, length))
        for contig, length in lengths.items()
        for start in range(0, length, break_bp)
    ]


def piece_at(pieces):
    return {(p.contig, base): number for number, p in enumerate(pieces) for base in range(p.start, p.end)}


def test_aligned_bases_are_counted_between_pieces(rearranged, tmp_path):
    ours, theirs = pieces_of(A, 170), pieces_of(rearranged.lengths, 210)[1:]  # the first belongs to nobody
    path, found, skipped = tmp_path / "ab.chain", Counter(), Counter()
    for one in cut_blocks(
        read_alignments(path),
        layers(ours),
        layers(theirs),
        lengths=(A, rearranged.lengths),
        source=path,
        skipped=skipped,
    ):
        assert ((one.target_end - one.target_start) == (one.query_end - one.query_start)).all()
        for row in range(len(one.aligned_bp)):
            pair = (int(one.target_number[row]), int(one.query_number[row]))
            found[pair] += int(one.aligned_bp[row])
            # both ends of every part are partners
            start, last = int(one.target_start[row]), int(one.target_end[row]) - 1
            ends = {rearranged.partner[one.target, start], rearranged.partner[one.target, last]}
            assert ends == {(one.query, int(one.query_start[row])), (one.query, int(one.query_end[row]) - 1)}
    in_a, in_b = piece_at(ours), piece_at(theirs)
    truth = Counter(
        (in_a[base], in_b[other]) for base, other in rearranged.partner.items() if base in in_a and other in in_b
    )
    assert found == truth
    assert not skipped


def components_of(num, links):
    group = list(range(num))

    def root(one):
        while group[one] != one:
            one = group[one]
        return one

    for one, other in links:
        group[root(one)] = root(other)
    return [root(one) for one in range(num)]


@pytest.mark.parametrize("min_aligned_bp", [1, 60])
@pytest.mark.parametrize("by", ["folds", "fractions"])
def test_what_is_aligned_stays_together(rearranged, tmp_path, min_aligned_bp, by):
    fractions = {"num_folds": 0, "valid_fraction": 0.2, "test_fraction": 0.25, "abstain_fraction": 1.0}
    spec = spec_of(min_aligned_bp=min_aligned_bp, **({} if by == "folds" else fractions))
    genomes = {"A": A, "B": rearranged.lengths}
    pieces = [(name, piece) for name, lengths in genomes.items() for piece in pieces_of(lengths, 250)]
    at = {
        (name, piece.contig, base): number
        for number, (name, piece) in enumerate(pieces)
        for base in range(piece.start, piece.end)
    }
    shared = Counter((at["A", *base], at["B", *other]) for base, other in rearranged.partner.items())
    links = [pair for pair, bases in shared.items() if bases >= min_aligned_bp]
    group = components_of(len(pieces), links)
    size = Counter()
    for number, (name, piece) in enumerate(pieces):
        size[group[number], name] += piece.width
    share = 0.25
    large = {
        one
        for one in set(group)
        for name, lengths in genomes.items()
        if size[one, name] > share * sum(lengths.values())
    }
    if len(set(group)) - len(large) < (4 if by == "folds" else 3):
        with pytest.raises(InputError, match=r"components of aligned pieces, of which \d are larger .* lower break_bp"):
            divide_homologous(spec, genomes, data_dir=str(tmp_path))
        return
    split = divide_homologous(spec, genomes, data_dir=str(tmp_path))
    roles = {name: owners(regions) for name, regions in split.regions.items()}
    for name, lengths in genomes.items():  # every base has one role
        assert sum(r.interval.width for r in split.regions[name]) == len(roles[name]) == sum(lengths.values())
    role_of = {}
    for number, (name, piece) in enumerate(pieces):
        here = {roles[name][piece.contig, base][1:] for base in range(piece.start, piece.end)}
        assert len(here) == 1
        role_of.setdefault(group[number], set()).update(here)
    assert all(len(found) == 1 for found in role_of.values())
    train = ("train", ALWAYS_TRAIN if by == "folds" else 0)
    assert all(role_of[one] == {train} for one in large)
    assert split.summary.num_links == len(links)
    assert split.summary.num_components == len(set(group))
    assert sorted(tuple(one.values()) for one in split.summary.oversized) == sorted(
        (size[one, "A"], size[one, "B"]) for one in large
    )
    assert divide_homologous(spec, genomes, data_dir=str(tmp_path)) == split
    write_json(tmp_path / "summary.json", dataclasses.asdict(split.summary))


def test_folds_of_every_genome_are_balanced(tmp_path):
    """Fifty contigs of each genome, each aligned with one of the other's, of other lengths."""
    random = np.random.default_rng(3)
    sizes = random.integers(50, 400, (50, 2)).tolist()
    genomes = {
        "A": {f"c{i}": size for i, (size, _) in enumerate(sizes)},
        "B": {f"d{i}": s for i, (_, s) in enumerate(sizes)},
    }
    lines = [f"chain 9 c{i} {a} + 0 40 d{i} {b} - 3 43 {i}\n40\n" for i, (a, b) in enumerate(sizes)]
    (tmp_path / "ab.chain").write_text("\n".join(lines))
    spec = spec_of(num_folds=5, break_bp=400)
    split = divide_homologous(spec, genomes, data_dir=str(tmp_path))
    assert split.summary.num_components == 50
    for name, regions in split.regions.items():
        filled = np.bincount([r.fold for r in regions], weights=[r.interval.width for r in regions])
        assert filled.max() - filled.min() < 0.1 * filled.mean(), name
    fold_a = {r.interval.contig[1:]: r.fold for r in split.regions["A"]}
    assert fold_a == {r.interval.contig[1:]: r.fold for r in split.regions["B"]}
    # fractions: no genome's share is exceeded
    fractions = spec_of(num_folds=0, valid_fraction=0.2, test_fraction=0.2, abstain_fraction=1.0, break_bp=400)
    shares = divide_homologous(fractions, genomes, data_dir=str(tmp_path)).summary.split_bp
    for name, lengths in genomes.items():
        for part in ("valid", "test"):
            assert 0.1 < shares[name][part] / sum(lengths.values()) <= 0.2


def test_one_genome_keeps_its_duplications_together(tmp_path):
    lines = [
        "chain 9 a1 5000 + 100 180 a2 3000 - 100 180 1\n80\n",
        "chain 9 a3 2000 + 0 50 a1 5000 + 1000 1050 2\n50\n",
    ]
    (tmp_path / "aa.chain").write_text("\n".join(lines))
    spec = spec_of(AlignmentFile(file="aa.chain", target="A", query="A"))
    assert spec.files == ("aa.chain",)
    split = divide_homologous(spec, {"A": A}, data_dir=str(tmp_path))
    role = owners(split.regions["A"])
    assert role["a1", 120][1:] == role["a2", 2850][1:]
    assert role["a3", 7][1:] == role["a1", 1007][1:]
    assert split.summary.num_links == 2
    # written once, the folds are read by every dataset of the genome
    write_regions(tmp_path / "folds.bed", split.regions["A"])
    read = assign_regions(FoldSpec(sequences="folds.bed", sequences_are="region"), A, data_dir=str(tmp_path))
    assert read == split.regions["A"]


def test_spans_and_thresholds_decide_what_is_linked(tmp_path):
    text = (
        "chain 9 a1 5000 + 0 240 b1 9000 + 0 240 1\n20 200 200\n20\n\nchain 5 a2 3000 + 0 30 b1 9000 + 500 530 2\n30\n"
    )
    (tmp_path / "ab.chain").write_text(text)
    genomes = {"A": A, "B": {"b1": 9000}}

    def links(**fields):
        return divide_homologous(spec_of(**fields), genomes, data_dir=str(tmp_path)).summary.num_links

    assert links() == 2
    assert links(min_aligned_bp=41) == 0
    assert links(min_aligned_bp=41, extent="span") == 1
    assert links(min_span_bp=31) == 1
    assert links(min_score=6) == 1
    # of two spans of different length, the shorter one is what is shared
    (tmp_path / "ab.chain").write_text("chain 9 a1 5000 + 0 240 b1 9000 + 0 45 1\n20 200 5\n20\n")
    assert links(min_aligned_bp=45, extent="span") == 1
    assert links(min_aligned_bp=46, extent="span") == 0
    (tmp_path / "ab.chain").write_text("chain 9 a1 5000 + 0 45 b1 9000 + 0 240 1\n20 5 200\n20\n")
    assert links(min_aligned_bp=45, extent="span") == 1
    assert links(min_aligned_bp=46, extent="span") == 0


def test_gaps_break_pieces_and_are_nobodys(tmp_path):
    (tmp_path / "ab.chain").write_text("chain 9 a1 5000 + 0 100 b1 9000 + 0 100 1\n100\n")
    gaps = {"A": {"a1": Spans(np.array([60]), np.array([80]))}}
    genomes = {"A": A, "B": {"b1": 9000}}
    split = divide_homologous(spec_of(), genomes, gaps=gaps, data_dir=str(tmp_path))
    role = owners(split.regions["A"])
    assert ("a1", 60) not in role
    assert ("a1", 79) not in role
    assert len({role["a1", base][1:] for base in (0, 59, 80, 99)}) == 1  # both sides are aligned with one piece of B


def test_alignments_on_contigs_that_a_genome_lacks_are_counted(tmp_path):
    text = "chain 9 {} 5000 + 0 100 b1 9000 + 0 100 1\n100\n\n"
    (tmp_path / "ab.chain").write_text("".join(text.format(name) for name in ("a1", "alt", "alt")))
    split = divide_homologous(spec_of(), {"A": A, "B": {"b1": 9000}}, data_dir=str(tmp_path))
    assert split.summary.skipped == {"ab.chain": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chain 9 a1 4000 + 0 9 b1 9000 + 0 9 1\n9\n", "'a1' has 4000 bases there and 5000 in the genome"),
        ("chain 9 x 4000 + 0 9 b1 9000 + 0 9 1\n9\n", "no alignment of A with B spans 0 bp"),
        ("net a1 5000\n fill 0 9 b1 + 8995 9\n", "an alignment of a1 with b1 reaches beyond their ends"),
        (
            "net a1 5000\n fill 0 9 b1 + 0 9\n fill 9 9 chrb1 + 0 9\n",
            "contigs 'b1' and 'chrb1' both mean b1; rename one there",
        ),
    ],
)
def test_alignments_of_other_assemblies_are_refused(tmp_path, text, message):
    (tmp_path / "ab.chain").write_text(text)
    with pytest.raises(InputError, match=message):
        divide_homologous(spec_of(), {"A": A, "B": {"b1": 9000}}, data_dir=str(tmp_path))


def test_an_unknown_genome_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ab\.chain: aligns genome 'B'; there are A, C"):
        divide_homologous(spec_of(), {"A": A, "C": A}, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": FoldSpec(valid=("a1",), test=("a2",))}, "folds name regions of one genome; set num_folds"),
        ({"folds": FoldSpec(num_folds=3, exclude=("a1",))}, "give them as gaps of that genome"),
        ({"min_aligned_bp": 0}, "min_aligned_bp=0, min_span_bp=100000; wanted 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        HomologySpec(**({"alignments": (BETWEEN,), "folds": FoldSpec(num_folds=3)} | fields))
