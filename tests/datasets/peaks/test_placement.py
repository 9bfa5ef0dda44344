import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.folds import FoldSpec, Region, assign_regions
from cisray.datasets.loci.regions import Spans
from cisray.datasets.loci.tiling import WindowSpec, tile
from cisray.datasets.peaks.placement import Ground, Windows, jitter_by_locus, join_spans, space_out
from cisray.datasets.source import read_windows
from cisray.genome.intervals import Interval
from cisray.genome.reference import Reference
from cisray.geometry import Geometry

GENOME = {"chr1": 300, "chr2": 90, "chr3": 60}
FOLDS = FoldSpec(valid=("chr1:100-180",), test=("chr2",), exclude=("chr3:0-30",))
GEOMETRY = Geometry(window_bp=20, bin_bp=5, crop_bins=1, margin_bp=3)


def make_ground(edges="inside", geometry=GEOMETRY):
    return Ground(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=WindowSpec(edges=edges))


def where(ground, windows):
    return [
        (ground.regions[region].interval.contig, start)
        for region, start in zip(windows.region.tolist(), windows.start.tolist(), strict=True)
    ]


@pytest.fixture
def reference(tmp_path):
    letters = np.random.default_rng(1).choice(list("ACGTNacgt"), sum(GENOME.values()))
    bases, first, text = "".join(letters), 0, ""
    for contig, length in GENOME.items():
        text += f">{contig}\n{bases[first : first + length]}\n"
        first += length
    (tmp_path / "g.fa").write_text(text)
    return Reference(tmp_path / "g.fa", tmp_path / "cache")


@pytest.mark.parametrize("edges", ["inside", "pad"])
def test_windows_may_begin_where_a_tiling_lays_them(edges):
    ground = make_ground(edges)
    tiling = tile(
        ground.regions, GENOME, geometry=GEOMETRY, spec=WindowSpec(edges=edges, stride_bp=1, eval_stride_bp=1)
    )
    laid = [(shard.contig, start) for shard in tiling.shards for start in shard.starts]
    everywhere = Windows.of(
        np.repeat(np.arange(len(ground.regions)), 400), np.tile(np.arange(-50, 350), len(ground.regions))
    )
    assert where(ground, everywhere.pick(ground.fit(everywhere))) == laid
    assert where(ground, ground.lattice(1, seed=3)) == laid


def test_a_lattice_begins_at_a_drawn_place_of_every_region():
    ground = make_ground()
    windows = ground.lattice(7, seed=1)
    assert ground.fit(windows).all()
    for number in range(len(ground.regions)):
        starts = windows.start[windows.region == number]
        assert (np.diff(starts) == 7).all()
        assert starts[0] - ground.lowest[number] < 7
        assert ground.highest[number] - starts[-1] < 7
    assert len({tuple(ground.lattice(7, seed=seed).start) for seed in range(5)}) > 1


def test_a_region_too_short_for_a_window_has_none():
    regions = [Region(Interval("chr3", 20, 40), "train", 0), Region(Interval("chr3", 40, 60), "test", 2)]
    ground = Ground(regions, GENOME, geometry=GEOMETRY, spec=WindowSpec())
    assert len(ground.lattice(1, seed=0).start) == 0


def test_positions_are_in_the_region_that_holds_them():
    ground = make_ground()
    found = ground.locate("chr1", np.array([0, 99, 100, 179, 180, 299, 300, -1]))
    assert [ground.regions[index].split if index >= 0 else None for index in found] == [
        *("train", "train", "valid", "valid", "train", "train"),
        *(None, None),
    ]
    assert ground.locate("chr3", np.array([29, 30])).tolist() == [-1, 4]
    assert ground.locate("chr9", np.array([29, 30])).tolist() == [-1, -1]


def test_counts_add_up_by_split():
    ground = make_ground()
    windows = Windows.of(np.array([0, 0, 2, 1, 3]), np.array([5, 3, 200, 110, 8]))
    assert where(ground, windows) == [("chr1", 3), ("chr1", 5), ("chr1", 110), ("chr1", 200), ("chr2", 8)]
    assert ground.by_split(ground.counts(windows)) == {"train": 3, "valid": 1, "test": 1}
    assert ground.in_splits(["valid"]).tolist() == [split == "valid" for split, _ in ground.groups]
    assert [(contig, rows) for contig, rows in ground.runs(windows)] == [("chr1", slice(0, 4)), ("chr2", slice(4, 5))]


def test_composition_and_bases_are_those_of_each_window(reference):
    ground = make_ground("pad")
    windows = ground.lattice(3, seed=0)
    composition = ground.composition(windows, reference)
    for row, (contig, start) in enumerate(where(ground, windows)):
        bases = reference.bases(contig, start, start + 20)
        known = 20 - bases.count("N")
        assert composition.n_fraction[row] == bases.count("N") / 20
        assert composition.gc_fraction[row] == pytest.approx((bases.count("G") + bases.count("C")) / known)


@pytest.mark.parametrize("starts", [range(0, 200, 7), [0, 250], [-15, 295], []])
def test_windows_are_read_alike_near_and_far(reference, starts):
    codes = read_windows(reference, "chr1", np.array(starts, np.int64), 10)
    expected = [reference.codes("chr1", start, start + 10) for start in starts]
    np.testing.assert_array_equal(codes, np.array(expected).reshape(-1, 10))


def test_overlap_is_counted_by_contig():
    ground = make_ground()
    windows = Windows.of(np.array([0, 0, 3]), np.array([0, 40, 10]))
    spans = {"chr1": Spans(np.array([15, 45]), np.array([25, 50])), "chr2": Spans(np.array([0]), np.array([11]))}
    assert ground.overlap_bp(windows, spans).tolist() == [5, 5, 1]
    covered = ground.spans(windows)
    assert {contig: (one.start.tolist(), one.end.tolist()) for contig, one in covered.items()} == {
        "chr1": ([0, 40], [20, 60]),
        "chr2": ([10], [30]),
    }
    joined = join_spans(spans, covered)["chr1"]
    assert (joined.start.tolist(), joined.end.tolist()) == ([0, 40], [25, 60])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 200)), max_size=30),
    st.integers(1, 40),
    st.integers(0, 100),
)
def test_spaced_windows_are_apart_and_none_is_left_out_without_reason(loci, spacing_bp, seed):
    windows = Windows.of(np.array([r for r, _ in loci], np.int64), np.array([s for _, s in loci], np.int64))
    priority = np.random.default_rng(seed).random(len(windows.start))
    kept = space_out(windows, priority, spacing_bp=spacing_bp)
    for row in range(len(kept)):
        near = (windows.region == windows.region[row]) & (np.abs(windows.start - windows.start[row]) < spacing_bp)
        better = kept & near & (priority > priority[row])
        assert kept[row] == (not better.any())


@given(st.integers(0, 30), st.sampled_from(["inside", "pad"]))
def test_windows_keep_their_guard_from_where_another_region_begins(guard_bp, edges):
    regions = assign_regions(FOLDS, GENOME)
    ground = Ground(regions, GENOME, geometry=GEOMETRY, spec=WindowSpec(edges=edges), guard_bp=guard_bp)
    least_bp = max(guard_bp, GEOMETRY.margin_bp)
    for region, low, high in zip(regions, ground.lowest, ground.highest, strict=True):
        here = region.interval
        assert here.start == 0 or low == here.start + least_bp
        assert here.end == GENOME[here.contig] or high + GEOMETRY.window_bp == here.end - least_bp


def test_jitter_reaches_both_sides_and_depends_on_the_locus_alone():
    positions = np.arange(0, 50_000, 10)
    shift = jitter_by_locus("chr1", positions, jitter_bp=5, seed=1) - positions
    assert sorted(set(shift.tolist())) == list(range(-5, 6))
    counts = np.bincount(shift + 5)
    assert counts.min() > 0.8 * counts.mean()
    np.testing.assert_array_equal(
        shift[100:200], jitter_by_locus("chr1", positions[100:200], jitter_bp=5, seed=1) - positions[100:200]
    )
    assert (jitter_by_locus("chr1", positions, jitter_bp=0, seed=1) == positions).all()
