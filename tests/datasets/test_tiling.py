from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.datasets.folds import SPLITS, FoldSpec, Region, assign_regions
from cisray.datasets.tiling import Shard, WindowSpec, tile
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
def tilings(draw):
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
        ({"max_n_fraction": 1.1}, r"max_n_fraction=1\.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        WindowSpec(**fields)
