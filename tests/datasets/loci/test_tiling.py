import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.folds import SPLITS, FoldSpec, Region, assign_regions
from cisray.datasets.loci.regions import Masks, Spans
from cisray.datasets.loci.tiling import Shard, WindowSpec, tile
from cisray.errors import InputError
from cisray.genome.intervals import Interval
from cisray.geometry import Geometry

GENOME = {"chr1": 100, "chr2": 30, "chr3": 30}
FOLDS = FoldSpec(valid=("chr2",), test=("chr3",))


def starts(tiling, contig):
    return [start for shard in tiling.shards if shard.contig == contig for start in shard.starts]


def test_predicted_parts_lie_side_by_side():
    geometry = Geometry(window_bp=20, bin_bp=5, crop_bins=1, margin_bp=3)
    tiling = tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=WindowSpec())
    assert starts(tiling, "chr1") == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert starts(tiling, "chr2") == [0, 10]
    assert tiling.uncovered_bp == {"train": 10, "valid": 10, "test": 10}  # the crop at both ends


def test_padded_windows_predict_every_base():
    geometry = Geometry(window_bp=20, bin_bp=5, crop_bins=1, margin_bp=3)
    spec = WindowSpec(edges="pad")
    tiling = tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=spec)
    assert starts(tiling, "chr2") == [-5, 5, 15]
    assert tiling.uncovered_bp == dict.fromkeys(SPLITS, 0)


def test_windows_keep_a_margin_from_where_another_region_begins():
    geometry = Geometry(window_bp=20, bin_bp=5, margin_bp=3)
    folds = FoldSpec(valid=("chr1:40-70",), test=("chr2",), exclude=("chr3",))
    tiling = tile(assign_regions(folds, GENOME), GENOME, geometry=geometry, spec=WindowSpec(stride_bp=1))
    assert starts(tiling, "chr1") == [*range(18), 43, *range(73, 81)]


def test_shards_hold_about_shard_bp_and_name_what_they_cover():
    geometry = Geometry(window_bp=10, bin_bp=5)
    spec = WindowSpec(stride_bp=5, shard_bp=30)
    tiling = tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=spec)
    train = [shard for shard in tiling.shards if shard.split == "train"]
    assert [(shard.start, shard.num_windows) for shard in train] == [(0, 6), (30, 6), (60, 6), (90, 1)]
    assert [shard.name for shard in train][:2] == ["part-chr1-0000000000", "part-chr1-0000000030"]
    assert Shard("HLA/A:01", -4, 1, 1, "test", 0).name == "part-HLA%2FA%3A01-0000000000"


@st.composite
def tilings(draw, **fields):
    """Draw a genome, regions that share it out, a geometry and a way to lay windows."""
    genome, regions = {}, []
    for number in range(draw(st.integers(1, 2))):
        cuts = [0, *np.cumsum(draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))).tolist()]
        genome[f"c{number}"] = cuts[-1]
        for start, end in pairwise(cuts):
            role = draw(st.sampled_from([*SPLITS, "exclude"]))
            if role != "exclude":
                regions.append(Region(Interval(f"c{number}", start, end), role, 0))
    for split in SPLITS:  # a roomy contig of its own, so that no split is empty
        genome[split] = 60
        regions.append(Region(Interval(split, 0, 60), split, 0))
    bin_bp, num_bins, crop_bins = draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)))
    geometry = Geometry(
        window_bp=bin_bp * (num_bins + 2 * crop_bins),
        bin_bp=bin_bp,
        crop_bins=crop_bins,
        margin_bp=draw(st.integers(0, 5)),
    )
    strides = st.one_of(st.none(), st.integers(1, 30))
    spec = WindowSpec(
        stride_bp=draw(strides),
        eval_stride_bp=draw(strides),
        edges=draw(st.sampled_from(["inside", "pad"])),
        shard_bp=draw(st.integers(1, 50)),
        **fields,
    )
    return genome, regions, geometry, spec


def expected_starts(region, contig_bp, geometry, spec):
    """Lay windows over one region one by one."""
    first, last = region.interval.start, region.interval.end
    stride = spec.stride_bp if region.split == "train" else spec.eval_stride_bp
    stride = geometry.target_bp if stride is None else stride
    padded, crop, target = spec.edges == "pad", geometry.crop_bp, geometry.target_bp
    start = first + geometry.margin_bp if first else (-crop if padded else 0)
    found = []
    while True:
        if padded and last == contig_bp:
            previous_end = start - stride + crop + target if found else 0
            if start + crop >= last or previous_end >= last:
                return found
        elif start + geometry.window_bp + (geometry.margin_bp if last < contig_bp else 0) > last:
            return found
        found.append(start)
        start += stride


@settings(max_examples=300)
@given(tilings())
def test_windows_are_those_laid_one_by_one_and_shards_cut_them(drawn):
    genome, regions, geometry, spec = drawn
    tiling = tile(regions, genome, geometry=geometry, spec=spec)
    expected = {contig: [] for contig in genome}
    for region in regions:
        contig = region.interval.contig
        windows = expected_starts(region, genome[contig], geometry, spec)
        expected[contig] += [(start, region.split) for start in windows]
    for contig, windows in expected.items():
        shards = [shard for shard in tiling.shards if shard.contig == contig]
        assert [(start, shard.split) for shard in shards for start in shard.starts] == windows
    assert len({shard.name for shard in tiling.shards}) == len(tiling.shards)


@settings(max_examples=300)
@given(tilings())
def test_splits_never_share_a_base_and_uncovered_bases_are_counted(drawn):
    genome, regions, geometry, spec = drawn
    tiling = tile(regions, genome, geometry=geometry, spec=spec)
    owner = {contig: np.full(length, "", object) for contig, length in genome.items()}
    for region in regions:
        owner[region.interval.contig][region.interval.start : region.interval.end] = region.split
    covered = {contig: np.zeros(length, bool) for contig, length in genome.items()}
    for shard in tiling.shards:
        for start in shard.starts:
            end, margin = start + geometry.window_bp, geometry.margin_bp
            assert spec.edges == "pad" or (start >= 0 and end <= genome[shard.contig])
            stored = owner[shard.contig][max(0, start - margin) : end + margin]
            assert set(stored) == {shard.split}
            predicted = slice(max(0, start + geometry.crop_bp), max(0, end - geometry.crop_bp))
            assert len(covered[shard.contig][predicted]) > 0
            covered[shard.contig][predicted] = True
    for split in SPLITS:
        uncovered = sum(int((~covered[contig] & (owner[contig] == split)).sum()) for contig in genome)
        assert tiling.uncovered_bp[split] == uncovered


def test_a_split_without_a_window_is_refused():
    geometry = Geometry(window_bp=40, bin_bp=5)
    with pytest.raises(InputError, match=r"the valid split has no window of 40 bp \(30 bp were given to it\)"):
        tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=WindowSpec())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride_bp": 0}, "stride_bp=0"),
        ({"eval_stride_bp": -1}, "eval_stride_bp=-1"),
        ({"shard_bp": 0}, "shard_bp=0"),
        ({"snap_bp": 0}, "snap_bp=0"),
        ({"sample_fraction": 0.0}, r"sample_fraction=0\.0; wanted a share above 0"),
        ({"max_n_fraction": 1.1}, r"max_n_fraction=1\.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        WindowSpec(**fields)


def spans(*pairs):
    return Spans(*np.array(pairs, np.int64).T)


def windows_of(tiling):
    return [(shard.contig, start, shard.split) for shard in tiling.shards for start in shard.starts]


def test_a_shard_is_the_same_after_a_journey_as_plain_values():
    shard = Shard("chr1", -5, 0, 3, "train", 0, (0, 4, 10))
    assert shard.starts == [-5, -1, 5]
    assert shard.name == "part-chr1--000000005"
    again = Shard(**json.loads(json.dumps(shard._asdict())))
    assert (again.starts, again.name) == (shard.starts, shard.name)


@settings(max_examples=100)
@given(tilings(sample_fraction=0.5, seed=3), st.data())
def test_windows_are_left_out_one_by_one_and_counted(drawn, data):
    genome, regions, geometry, spec = drawn
    masks = Masks(
        unmappable={
            contig: spans((0, 0), *([(4, 4 + data.draw(st.integers(0, 12)))] if length > 20 else []))
            for contig, length in genome.items()
        },
        max_unmappable_fraction=data.draw(st.sampled_from([0.0, 0.5, 0.9])),
    )
    whole = dataclasses.replace(spec, sample_fraction=1.0)
    laid = tile(regions, genome, geometry=geometry, spec=whole)
    kept, dropped = [], {split: [0, 0] for split in SPLITS}
    for contig, start, split in windows_of(laid):
        lost = masks.unmappable_fraction(contig, np.array([start]), geometry)[0] > masks.max_unmappable_fraction
        missed = locus_draws(contig, np.array([start]), seed=3)[0] >= 0.5
        dropped[split][0] += bool(lost)
        dropped[split][1] += bool(missed and not lost)
        kept += [] if lost or missed else [(contig, start, split)]
    if {split for _, _, split in kept} != set(SPLITS):
        with pytest.raises(InputError, match=r"split has no window of .* left out were windows "):
            tile(regions, genome, geometry=geometry, spec=spec, masks=masks)
        return
    tiling = tile(regions, genome, geometry=geometry, spec=spec, masks=masks)
    assert windows_of(tiling) == kept
    assert len({shard.name for shard in tiling.shards}) == len(tiling.shards)
    assert all(shard.num_windows == len(shard.starts) > 0 for shard in tiling.shards)
    for split, counts in dropped.items():
        told = tiling.dropped[split]
        reasons = ["with too many unmappable bins", "not sampled"]
        assert [told[reason] for reason in reasons] == counts
    covered = {contig: np.zeros(length, bool) for contig, length in genome.items()}
    for contig, start, _ in kept:
        covered[contig][max(0, start + geometry.crop_bp) : max(0, start + geometry.window_bp - geometry.crop_bp)] = True
    for split in SPLITS:
        bare = [~covered[r.interval.contig][r.interval.start : r.interval.end] for r in regions if r.split == split]
        assert tiling.uncovered_bp[split] == sum(int(one.sum()) for one in bare)
    assert tiling.unassigned_bp == sum(genome.values()) - sum(region.interval.width for region in regions)


@settings(max_examples=200)
@given(tilings(), st.integers(1, 12))
def test_windows_start_on_the_grid_and_as_many_as_fit(drawn, snap_bp):
    genome, regions, geometry, spec = drawn
    strides = {
        name: None if getattr(spec, name) is None else getattr(spec, name) * snap_bp
        for name in ("stride_bp", "eval_stride_bp")
    }
    spec = dataclasses.replace(spec, snap_bp=snap_bp, **strides)
    if any(spec.stride_of(split, geometry) % snap_bp for split in ("train", "valid")):
        with pytest.raises(InputError, match=f"are no multiple of snap_bp={snap_bp}; set (eval_)?stride_bp to one"):
            tile(regions, genome, geometry=geometry, spec=spec)
        return
    try:
        tiling = tile(regions, genome, geometry=geometry, spec=spec)
    except InputError:  # the roomy contigs have no window where the grid is coarse and windows are long
        return
    found = windows_of(tiling)
    assert all(start % snap_bp == 0 for _, start, _ in found)
    assert len({shard.name for shard in tiling.shards}) == len(tiling.shards)
    for region in regions:
        interval, margin = region.interval, geometry.margin_bp
        starts = [start for contig, start, _ in found if contig == interval.contig]
        starts = [start for start in starts if interval.start <= start + geometry.crop_bp < interval.end or start < 0]
        if spec.edges == "inside":
            first = interval.start + margin if interval.start else 0
            first += -first % snap_bp
            last = interval.end - (margin if interval.end < genome[interval.contig] else 0) - geometry.window_bp
            starts = [start for start in starts if interval.start <= start <= interval.end - geometry.window_bp]
            assert starts == list(range(first, last + 1, spec.stride_of(region.split, geometry)))
        for start in starts:  # a padded window predicts at least one base of its contig
            assert start + geometry.crop_bp + geometry.target_bp > 0


def test_padding_begins_early_enough_for_the_grid_to_predict_the_first_base():
    geometry = Geometry(window_bp=40, bin_bp=5, crop_bins=3)
    spec = WindowSpec(edges="pad", snap_bp=10)
    tiling = tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=spec)
    assert starts(tiling, "chr2") == [-20, -10, 0, 10]
    assert tiling.uncovered_bp == dict.fromkeys(SPLITS, 0)


def test_which_windows_are_sampled_does_not_depend_on_shards_or_stride(tmp_path):
    genome = {"chr1": 60_000, "chr2": 20_000, "chr3": 20_000}
    regions, geometry = assign_regions(FOLDS, genome), Geometry(window_bp=20, bin_bp=5)

    def sampled(**fields):
        tiling = tile(regions, genome, geometry=geometry, spec=WindowSpec(sample_fraction=0.3, **fields))
        return set(windows_of(tiling))

    one = sampled(stride_bp=10, shard_bp=1000)
    assert len([window for window in one if window[2] == "train"]) == pytest.approx(0.3 * 5998, rel=0.1)
    assert len([window for window in one if window[2] == "test"]) == pytest.approx(0.3 * 1000, rel=0.2)
    assert sampled(stride_bp=10, shard_bp=333) == one
    assert {w for w in sampled(stride_bp=5) if w[1] % 10 == 0 or w[2] != "train"} == one
    assert sampled(stride_bp=10, seed=1) != one


def test_only_windows_that_predict_a_base_of_the_limit_are_kept(tmp_path):
    (tmp_path / "limit.bed").write_text("1\t14\t15\n1\t49\t51\nchr2\t5\t6\nchr3\t0\t30\nchrX\t0\t5\n")
    geometry = Geometry(window_bp=20, bin_bp=5, crop_bins=1)
    spec = WindowSpec(limit="limit.bed")
    assert spec.files == ("limit.bed",)
    tiling = tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=spec, data_dir=str(tmp_path))
    assert starts(tiling, "chr1") == [0, 40]  # they predict 5-15 and 45-55
    assert starts(tiling, "chr2") == [0]
    assert starts(tiling, "chr3") == [0, 10]
    assert {split: told["outside the limit"] for split, told in tiling.dropped.items()} == {
        "train": 7,
        "valid": 1,
        "test": 0,
    }
    assert tiling.limit_left_out == {"chrX": 1}
    (tmp_path / "limit.bed").write_text("chr1\t14\t15\n")
    with pytest.raises(
        InputError, match=r"the valid split has no window .* left out were windows outside the limit \(2\)"
    ):
        tile(assign_regions(FOLDS, GENOME), GENOME, geometry=geometry, spec=spec, data_dir=str(tmp_path))


def listed(*starts, contig="chr1", split="train", end=90):
    return Region(Interval(contig, max(0, starts[0] + 5), end), split, 0, starts)


def test_listed_windows_are_taken_as_they_are():
    geometry = Geometry(window_bp=20, bin_bp=5, crop_bins=1, margin_bp=3)
    regions = [listed(-5, 1, 30, 41, 42, end=60), listed(5, 10, contig="chr2", split="valid", end=25)]
    regions.append(listed(15, contig="chr3", split="test", end=30))
    spec = WindowSpec(edges="pad", shard_bp=40)
    tiling = tile(regions, GENOME, geometry=geometry, spec=spec)
    assert [(s.name, s.stride_bp, s.starts) for s in tiling.shards] == [
        ("part-chr1--000000005", 0, [-5, 1, 30]),
        ("part-chr1-0000000041", 1, [41, 42]),
        ("part-chr2-0000000005", 5, [5, 10]),
        ("part-chr3-0000000015", 10, [15]),
    ]
    assert tiling.uncovered_bp == {"train": 60 - 16 - 10 - 11, "valid": 0, "test": 0}
    assert tiling.unassigned_bp == 160 - 60 - 15 - 10
    gaps = Masks(gaps={"chr1": spans((45, 50))})
    tiling = tile(regions, GENOME, geometry=geometry, spec=spec, masks=gaps)
    assert starts(tiling, "chr1") == [-5, 1]
    assert tiling.dropped["train"] == {"across an assembly gap": 3}
    with pytest.raises(InputError, match=r"window chr1:-5-15 reaches over the ends of chr1, .* take it out"):
        tile(regions, GENOME, geometry=geometry, spec=WindowSpec())
    with pytest.raises(InputError, match=r"windows: stride_bp=7, snap_bp=7, but folds.sequences lists the windows"):
        tile(regions, GENOME, geometry=geometry, spec=WindowSpec(stride_bp=7, snap_bp=7))


def test_windows_that_begin_before_their_contig_get_names_of_their_own():
    geometry = Geometry(window_bp=40, bin_bp=5, crop_bins=3)  # the crop is longer than what is predicted
    regions = [
        Region(Interval("chr1", 0, 10), "train", 0, (-15,)),
        Region(Interval("chr1", 10, 20), "valid", 1, (-5,)),
        Region(Interval("chr1", 20, 30), "test", 2, (5,)),
    ]
    tiling = tile(regions, GENOME, geometry=geometry, spec=WindowSpec(edges="pad"))
    assert [shard.starts for shard in tiling.shards] == [[-15], [-5], [5]]
    assert len({shard.name for shard in tiling.shards}) == 3
