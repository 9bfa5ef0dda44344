import json
import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cisray.config import check_settings
from cisray.datasets.from_peaks import PeaksSource, PeaksSpec
from cisray.datasets.peaks.mining import MiningSpec, mine, read_mined, write_mined
from cisray.datasets.schema import SHUFFLED, decode_examples
from cisray.datasets.statistics import Tally
from cisray.errors import InputError
from cisray.genome.sequence import decode, reverse_complement

LENGTHS = {"chr1": 40_000, "chr2": 20_000, "chr3": 20_000}
MOTIFS = {"one": "GATTACAGGAT", "two": "CCGTTGCAACT"}
JOB = {
    "genome": {"name": "toy", "fasta": "g.fa"},
    "geometry": {"window_bp": 200, "bin_bp": 40, "crop_bins": 2, "margin_bp": 7},
    "folds": {"valid": ["chr2"], "test": ["chr3"]},
    "tracks_from": "*_peaks.bed",
    "strip_suffix": "_peaks",
}


@pytest.fixture(scope="module")
def planted():
    """The middles of each track's peaks, by contig."""
    random = np.random.default_rng(3)
    return {
        track: {
            contig: np.sort(random.choice(np.arange(300, length - 300), 40, replace=False))
            for contig, length in LENGTHS.items()
        }
        for track in MOTIFS
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, planted):
    """A genome with a motif under the middle of each peak, and the peaks of 60 bp in two files in random order."""
    random, folder, text = np.random.default_rng(4), tmp_path_factory.mktemp("data"), ""
    for contig, length in LENGTHS.items():
        letters = random.choice(list("ACGT"), length)
        for track, motif in MOTIFS.items():
            for middle in planted[track][contig]:
                letters[middle - 5 : middle + 6] = list(motif)
        letters[10_000:10_500] = "N"
        text += f">{contig}\n{''.join(letters)}\n"
    (folder / "g.fa").write_text(text)
    for track, contigs in planted.items():
        lines = [f"{contig}\t{m - 30}\t{m + 31}\n" for contig, middles in contigs.items() for m in middles]
        (folder / f"{track}_peaks.bed").write_text("".join(random.permutation(lines)))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def make(data_dir):
    def make(**settings):
        return PeaksSource(check_settings(JOB | settings, PeaksSpec, source="job"), str(data_dir))

    return make


def build_all(source):
    """Return all rows by split, each row as (contig, start, end, strand, fold, codes, labels)."""
    rows = {}
    for shard in source.plan().shards:
        built = source.build(shard.values)
        assert len(built.rows) == shard.num_rows
        arrays = decode_examples(built.rows, source.layout)
        columns = (built.rows[name].to_pylist() for name in ("contig", "start", "end", "strand", "fold"))
        rows.setdefault(shard.split, []).extend(zip(*columns, arrays.codes, arrays.targets, strict=True))
    return rows


def slow_labels(planted, contig, start):
    """Label the middle bin of a window by counting its bases under each track's peaks."""
    labels = []
    for track in MOTIFS:
        bases = set()
        for middle in planted[track][contig]:
            bases |= set(range(middle - 30, middle + 31))
        labels.append(int(len(bases & set(range(start + 80, start + 120))) > 20))
    return labels


def test_tiled_windows_with_a_label_are_kept_with_their_bases_and_labels(make, data_dir, planted):
    source = make()
    rows = build_all(source)
    assert source.layout.tracks == ("one", "two")
    expected = {"train": set(), "valid": set(), "test": set()}
    for contig, split in (("chr1", "train"), ("chr2", "valid"), ("chr3", "test")):
        for start in range(0, LENGTHS[contig] - 200 + 1, 40):
            labels = slow_labels(planted, contig, start)
            if any(labels) and source._reference.bases(contig, start, start + 200).count("N") <= 20:
                expected[split].add((contig, start, *labels))
    for split, of_split in rows.items():
        found = {(contig, start, *labels.ravel().tolist()) for contig, start, *_, labels in of_split}
        assert found == expected[split]
        assert len(of_split) == len(found) > 40
        for contig, start, end, strand, fold, codes, _ in of_split:
            assert decode(codes) == source._reference.bases(contig, start - 7, end + 7)
            assert (end - start, strand, fold) == (200, "+", {"train": 0, "valid": 1, "test": 2}[split])


def test_the_plan_accounts_for_every_tiled_window(make):
    plan = make().plan()
    rows = sum(shard.num_rows for shard in plan.shards)
    dropped = plan.dropped["tiled windows without a label"] + plan.dropped["labelled windows with too many N"]
    assert rows + dropped == plan.facts["tiled_windows"] == 996 + 496 + 496
    assert plan.facts["positives"] == {
        split: sum(shard.num_rows for shard in plan.shards if shard.split == split)
        for split in ("train", "valid", "test")
    }
    assert sum(plan.facts["gc_histogram"]) == rows
    assert plan.facts["peaks"] == 240
    assert plan.regions == {"train": ["chr1:0-40000"], "valid": ["chr2:0-20000"], "test": ["chr3:0-20000"]}


def test_windows_on_peaks_are_centred_on_groups_of_summits(make, planted):
    source = make(placement="peaks", merge_bp=50, labels={"rule": "summit"})
    starts = sorted(start for contig, start, *_ in build_all(source)["valid"])
    summits = sorted({int(middle) for track in MOTIFS for middle in planted[track]["chr2"]})
    centres, group = [], [summits[0]]
    for summit in [*summits[1:], 10**9]:
        if summit - group[0] > 50:
            centres.append(sum(group) // len(group))
            group = []
        group.append(summit)
    bases = source._reference
    fitting = [c - 100 for c in centres if bases.bases("chr2", c - 100, c + 100).count("N") <= 20]
    # the mean of a group may have no summit in the bin around it: such windows are counted as dropped
    assert set(starts) <= set(fitting)
    dropped = source.plan().dropped
    assert (
        dropped["windows on a peak without a label"]
        + sum(map(len, build_all(source).values()))
        + dropped["labelled windows with too many N"]
        == source.plan().facts["merged_peaks"]
    )
    assert len(starts) > 0.9 * len(fitting)


def test_jitter_moves_the_peak_from_the_middle_and_says_so(make, planted):
    still = make(placement="peaks", merge_bp=0, labels={"rule": "summit", "summit_bp": 60})
    moved = make(placement="peaks", merge_bp=0, labels={"rule": "summit", "summit_bp": 60}, jitter_bp=60)
    assert still.plan().facts["peak_in_the_middle"] == {
        "middle_bp": 21,
        "share_before_jitter": 1.0,
        "share_after_jitter": 1.0,
    }
    told = moved.plan().facts["peak_in_the_middle"]
    assert told["share_before_jitter"] == 1.0
    assert told["share_after_jitter"] < 0.3
    offsets = []
    for contig, start, *_ in build_all(moved)["train"]:
        near = np.concatenate([planted[track][contig] for track in MOTIFS]) - start
        offsets.append(near[np.argmin(np.abs(near - 100))] - 100)
    assert 15 < np.std(offsets) < 45
    assert max(np.abs(offsets)) <= 60


NEGATIVES = [
    {"kind": "gc_matched", "ratio": 0.5, "gc_bin": 0.1, "stride_bp": 20},
    {"kind": "motif_matched", "ratio": 0.2, "motif": "GATNACAG", "threshold": 7.0, "track": "one"},
    {"kind": "random", "ratio": 0.5},
    {"kind": "shuffle", "ratio": 1.5, "splits": ["train", "valid"]},
    {"kind": "others"},
]


def test_negatives_lie_in_their_split_off_every_peak_and_the_labels_say_so(make, planted):
    source = make(negatives=NEGATIVES)
    plan, rows = source.plan(), build_all(source)
    home = {"chr1": "train", "chr2": "valid", "chr3": "test"}
    for split, of_split in rows.items():
        for contig, start, _, strand, _, _, labels in of_split:
            assert home[contig] == split
            if strand == "+":
                assert labels.ravel().tolist() == slow_labels(planted, contig, start)
    told = {one["kind"]: one for one in plan.facts["negatives"]}
    for split in ("train", "valid", "test"):
        genomic = [row for row in rows[split] if row[3] == "+"]
        got = sum(told[kind]["got"][split] for kind in ("gc_matched", "motif_matched", "random"))
        assert len(genomic) <= plan.facts["positives"][split] + got
        assert len({(row[0], row[1]) for row in genomic}) == len(genomic)
    assert json.loads(json.dumps([plan.facts, plan.dropped])) == [plan.facts, plan.dropped]  # they go into the card
    short = plan.dropped["gc_matched negatives asked for and not found"]
    assert short == sum(told["gc_matched"]["asked"].values()) - sum(told["gc_matched"]["got"].values())
    twice = plan.dropped["negatives that are positives, or chosen twice"]
    num_genomic = sum(row[3] == "+" for of_split in rows.values() for row in of_split)
    got = sum(sum(told[kind]["got"].values()) for kind in ("gc_matched", "motif_matched", "random"))
    assert num_genomic == sum(plan.facts["positives"].values()) + got - twice
    assert told["random"]["with_a_label"] > 0


def test_shuffled_rows_keep_dinucleotides_have_no_label_and_no_strand(make):
    source = make(negatives=NEGATIVES[3:4])
    rows = build_all(source)
    assert not [row for row in rows["test"] if row[3] == SHUFFLED]
    shuffled = [row for row in rows["train"] if row[3] == SHUFFLED]
    assert len(shuffled) + sum(row[3] == SHUFFLED for row in rows["valid"]) == source.plan().facts["shuffled_rows"]
    seen = Counter()
    for contig, start, end, _, _, codes, labels in shuffled:
        original = source._reference.codes(contig, start - 7, end + 7)
        assert Counter(pairwise(codes)) == Counter(pairwise(original))
        assert (codes != original).any()
        assert not labels.any()
        seen[contig, start] += 1
        seen[codes.tobytes()] += 1
    assert set(seen.values()) == {1, 2}
    assert max(count for key, count in seen.items() if isinstance(key, bytes)) == 1  # copies of one window differ


def test_rows_do_not_depend_on_the_shards_they_are_built_in(make):
    few, many = make(negatives=NEGATIVES), make(negatives=NEGATIVES, shard_rows=13)
    assert len(many.plan().shards) > 5 * len(few.plan().shards)
    assert all(shard.num_rows <= 13 for shard in many.plan().shards)

    def content(source):
        return {
            split: sorted((row[:5], row[5].tobytes(), row[6].tobytes()) for row in of_split)
            for split, of_split in build_all(source).items()
        }

    assert content(few) == content(many)
    names = [shard.name for shard in many.plan().shards]
    assert len(set(names)) == len(names)
    assert all(type(start) is int for shard in many.plan().shards for start in shard.values["starts"])


def test_a_shard_is_tallied(make):
    source = make()
    shard = source.plan().shards[0]
    built = source.build(shard.values)
    labels = decode_examples(built.rows, source.layout).targets
    expected = Tally.of(labels.astype(np.float32), source.tracks)
    assert built.tally.to_dict() == expected.to_dict()
    assert built.tally.total.tolist() == (labels == 1).sum(axis=(0, 1)).tolist()
    assert built.dropped == {}


def test_unknown_labels_are_stored_as_such(make):
    source = make(labels={"partial": "unknown"})
    labels = np.concatenate([row[6].ravel() for rows in build_all(source).values() for row in rows])
    assert set(labels.tolist()) == {0, 1, 255}


def test_mined_negatives_of_a_round_go_into_the_next_dataset(make, data_dir, planted):
    source = make(placement="peaks", labels={"rule": "summit"}, merge_bp=0)

    def predict(codes):
        """Take any GATTAC for a peak of track one."""
        found = [max(("GATTAC" in decode(one)), ("GATTAC" in decode(reverse_complement(one)))) for one in codes]
        return np.array(found, np.float32)[:, None, None] * np.array([0.9, 0.0], np.float32)

    spec = MiningSpec(num_loci=50, spacing_bp=200)
    mined = mine(predict, source.candidates("train"), source.codes, spec)
    assert set(mined.contig) == {"chr1"}
    assert len(mined.start) > 1
    for start in mined.start:
        bases = source._reference.bases("chr1", start, start + 200)
        assert "GATTAC" in bases or "GTAATC" in bases
        assert MOTIFS["one"] not in bases
    write_mined(data_dir / "round1.bed", mined, window_bp=200)
    again = make(
        placement="peaks",
        labels={"rule": "summit"},
        merge_bp=0,
        negatives=[{"kind": "mined", "file": "round1.bed", "splits": ["train"]}],
    )
    rows = build_all(again)["train"]
    assert {row[1] for row in rows if not row[6].any()} == set(mined.start.tolist())
    assert data_dir / "round1.bed" in again.paths


def test_mined_loci_of_padded_windows_are_read_back(make, data_dir, tmp_path):
    source = make(windows={"edges": "pad", "max_n_fraction": 1.0})
    candidates = list(source.candidates("train", stride_bp=1))
    assert {contig for contig, _ in candidates} == {"chr1"}
    starts = np.concatenate([start for _, start in candidates])
    assert (starts.min(), starts.max() + 200) == (0, LENGTHS["chr1"])
    spec = MiningSpec(num_loci=1 << 20, spacing_bp=1)
    mined = mine(lambda codes: np.ones((len(codes), 1, 2)), candidates, source.codes, spec)
    write_mined(tmp_path / "round1.bed", mined, window_bp=200)
    assert sorted(read_mined(tmp_path / "round1.bed").start) == sorted(starts)


def test_intervals_on_contigs_that_the_genome_lacks_are_told(make, data_dir):
    (data_dir / "limit.bed").write_text("chr1\t0\t40000\nchr2\t0\t20000\nchr3\t0\t20000\nchrUn\t0\t9\n")
    (data_dir / "black.bed").write_text("chr1\t0\t9\nchrUn\t0\t9\n")
    facts = make(windows={"limit": "limit.bed"}, masks={"blacklist": "black.bed"}).plan().facts
    assert facts["intervals_on_other_contigs"] == {"blacklist": {"chrUn": 1}, "limit": {"chrUn": 1}}


def test_input_files_are_named_once(make, data_dir):
    source = make()
    assert [path.name for path in source.paths] == ["g.fa", "one_peaks.bed", "two_peaks.bed"]
    assert source.absent_contigs == {"one": [], "two": []}
    assert source.genome is not None
    assert source.genome.contig_lengths == LENGTHS


def test_folds_of_a_cut_genome_share_no_window(make):
    source = make(folds={"num_folds": 4, "break_bp": 5000}, negatives=NEGATIVES[:1])
    owner = {}
    for rows in build_all(source).values():
        for contig, start, end, _, fold, *_ in rows:
            for base in range(start - 7, end + 7):
                assert owner.setdefault((contig, base), fold) == fold
    assert set(owner.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize("placement", ["tile", "peaks"])
def test_padded_windows_reach_over_the_ends_of_a_contig(make, data_dir, placement):
    (data_dir / "ends.bed").write_text("chr1\t0\t40\nchr1\t39960\t40000\n")
    settings = {
        "tracks": [{"name": "ends", "file": "ends.bed"}],
        "placement": placement,
        "windows": {"edges": "pad", "max_n_fraction": 0.5},
    }
    source = make(**settings, **({} if placement == "tile" else {"labels": {"min_overlap_fraction": 0.0}}))
    of_ends = [row for row in build_all(source)["train"] if row[6][0, 0] == 1]
    assert [row[1] for row in of_ends if row[1] < 0] == [-80]
    assert of_ends[-1][2] == 40_080
    assert decode(of_ends[0][5]).startswith("N" * 87)
    windows = {"edges": "inside"}
    assert not [row for row in build_all(make(**(settings | {"windows": windows})))["train"] if row[6][0, 0] == 1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"merge_bp": -1}, "merge_bp=-1, .*wanted 0 or more bases"),
        ({"jitter_bp": 5}, "jitter_bp=5 shifts centred windows"),
        (
            {"placement": "peaks", "windows": {"stride_bp": 9, "limit": "l.bed", "edges": "pad"}},
            'windows: stride_bp, limit, but placement = "peaks" lays no tiles; remove it',
        ),
        ({"negatives": [{"kind": "shuffle"}, {"kind": "shuffle"}]}, "shuffle is named twice"),
        ({"tracks_from": None}, "belong to tracks_from, which is not set"),
        ({"negatives": [{"kind": "unpeaked", "track": "onne"}]}, "no track is called 'onne'; the nearest are one"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, settings, told):
    with pytest.raises(InputError, match=told):
        make(**settings)


def test_a_split_without_a_label_is_refused(make):
    source = make(folds={"valid": ["chr2:0-250"], "test": ["chr3"]})
    with pytest.raises(InputError, match=r"the valid split has no window with a label .*tiled windows without a label"):
        source.plan()


def test_a_track_without_a_window_cannot_be_matched(make, data_dir):
    (data_dir / "tiny.bed").write_text("chr1\t500\t501\n")
    source = make(tracks=[{"name": "tiny", "file": "tiny.bed"}], negatives=[{"kind": "unpeaked", "track": "tiny"}])
    with pytest.raises(InputError, match="track tiny labels no window"):
        source.plan()


real = pytest.mark.skipif(not os.environ.get("CISRAY_DATA"), reason="CISRAY_DATA names no folder of real data")


@real
def test_the_62_factors_of_yeast_build_with_abf1_on_its_motif():
    settings = JOB | {
        "genome": {"name": "sacCer3", "fasta": "yeast/sacCer3.fa.gz"},
        "geometry": {"window_bp": 600, "bin_bp": 200, "crop_bins": 1},
        "folds": {"valid": ["chrIX"], "test": ["chrXVI"]},
        "tracks_from": "yeast/tf_chipexo/*_CX.bed",
        "strip_suffix": "_CX",
        "labels": {"rule": "summit"},
        "placement": "peaks",
        "negatives": [{"kind": "gc_matched", "ratio": 0.3, "stride_bp": 100}],
    }
    source = PeaksSource(check_settings(settings, PeaksSpec, source="job"), os.environ["CISRAY_DATA"])
    assert len(source.tracks) == 62
    assert source.contig_names["Abf1"]["chr10"] == "chrX"
    plan = source.plan()
    assert plan.facts["peaks"] == 45_706
    told = plan.facts["negatives"][0]
    assert told["gc_distance"]["chosen"] < 0.01 < told["gc_distance"]["candidates"]
    built = source.build(plan.shards[-1].values)
    assert built.tally.num_bins == plan.shards[-1].num_rows
    abf1 = [track.name for track in source.tracks].index("Abf1")
    bound, motif = 0, re.compile("(?=[AG]TC[AG][CT].....ACG)")
    num_peaks = 0
    for contig, peaks in source._peaks.contigs.items():
        for summit in peaks.summit[peaks.track == abf1].tolist():
            codes = source._reference.codes(contig, summit - 16, summit + 17)
            num_peaks += 1
            bound += any(motif.search(decode(strand)) for strand in (codes, reverse_complement(codes)))
    assert (bound, num_peaks) == (487, 724)  # its middle at most 10 bases from the peak's
    assert Path(source.paths[0]).name == "sacCer3.fa.gz"
