from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.regions import Spans, load_spans
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.scoring.masks import make_masks, offsets_of_kept, parse_mask, unseen_bp

SMALL = Geometry(window_bp=100, bin_bp=10, crop_bins=1)  # 8 bins, from 10 bp into the window


class Stretches(NamedTuple):
    start: np.ndarray
    end: np.ndarray


def stretches(*pairs):
    start, end = zip(*pairs, strict=True) if pairs else ((), ())
    return Stretches(np.array(start, np.int64), np.array(end, np.int64))


def kept_bins(text, *, position=1045, window_start=1000, geometry=SMALL, regions=()):
    masks = make_masks(
        parse_mask(text), window_start=window_start, position=position, geometry=geometry, regions=regions
    )
    assert masks.dtype == bool
    assert masks.shape[1] == geometry.num_bins
    return [np.flatnonzero(mask).tolist() for mask in masks]


@pytest.mark.parametrize("text", ["crop", "center(501)", "gene(exon)", "gene(span)", "bed(peaks (old).bed.gz)"])
def test_a_mask_is_read_and_written_alike(text):
    assert str(parse_mask(f" {text} ")) == text


def test_a_mask_knows_whether_it_is_of_genes():
    assert [parse_mask(text).of_genes for text in ("gene(span)", "bed(a)", "crop")] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        *("", "centre(501)", "center", "center()", "center(0)", "center(-5)", "center(5.5)", "center(1e3)", "crop()"),
        *("crop(3)", "gene", "gene(intron)", "bed()", "bed", "center(501", "gene(exon) x"),
    ],
)
def test_an_unknown_mask_lists_what_there_is(text):
    with pytest.raises(InputError, match=r"wanted crop, center\(501\), gene\(exon\), gene\(span\) or bed\(FILE\)"):
        parse_mask(text)


def test_crop_keeps_all_bins():
    assert kept_bins("crop") == [list(range(8))]


# position 1045 lies in bin 3: 1000 + 10 of crop, bins of 10
@pytest.mark.parametrize(
    ("width_bp", "kept"),
    [(1, [3]), (10, [3]), (11, [2, 3]), (20, [2, 3]), (21, [2, 3, 4]), (31, [1, 2, 3, 4]), (500, list(range(8)))],
)
def test_center_keeps_bins_around_the_variants(width_bp, kept):
    assert kept_bins(f"center({width_bp})") == [kept]


def test_center_is_cut_at_the_crop_and_empty_beyond_it():
    assert kept_bins("center(30)", position=1010) == [[0, 1]]
    assert kept_bins("center(30)", position=1089) == [[6, 7]]
    assert kept_bins("center(30)", position=1009) == [[]]
    assert kept_bins("center(30)", position=1090) == [[]]
    assert kept_bins("center(30)", position=2, window_start=-40) == [[2, 3, 4]]


@pytest.mark.parametrize(
    ("bin_bp", "width_bp", "number"), [(1, 501, 501), (128, 501, 4), (128, 2001, 16), (32, 501, 16)]
)
def test_every_variant_is_measured_over_equally_many_bins(bin_bp, width_bp, number):
    geometry = Geometry(window_bp=128 * 64, bin_bp=bin_bp)
    for position in range(4000, 4128, 13):
        (kept,) = kept_bins(f"center({width_bp})", position=position, window_start=0, geometry=geometry)
        assert len(kept) == number
        assert position // bin_bp == kept[number // 2]


def test_genes_keep_bins_with_half_their_bases_in_exons():
    first = stretches((1012, 1015), (1016, 1018), (1024, 1040), (1041, 1044))  # 5 of bin 0, 6 of 1, 10 of 2, 3 of 3
    second = stretches((1030, 1031), (900, 1014), (1085, 2000))  # not sorted; 4 of bin 0, 1 of 2, 5 of 7
    assert kept_bins("gene(exon)", regions=[first, second]) == [[0, 1, 2], [7]]
    assert kept_bins("gene(exon)", regions=[]) == []


def test_exons_that_overlap_count_once():
    assert kept_bins("gene(exon)", regions=[stretches((1010, 1013), (1011, 1014), (1010, 1012))]) == [[]]
    assert kept_bins("gene(exon)", regions=[stretches((1010, 1013), (1010, 1014), (1013, 1015))]) == [[0]]


def test_bases_beyond_the_bins_are_counted():
    regions = [stretches((1000, 1012), (1085, 1095)), stretches((1020, 1030)), stretches((0, 10), (5000, 5007))]
    assert unseen_bp(regions, window_start=1000, geometry=SMALL).tolist() == [15, 0, 17]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 140), st.integers(1, 30)), max_size=8),
    window_start=st.integers(-20, 60),
    bin_bp=st.sampled_from([1, 2, 5, 20]),
)
def test_masks_of_regions_equal_those_counted_base_by_base(pairs, window_start, bin_bp):
    geometry = Geometry(window_bp=60, bin_bp=bin_bp, crop_bins=20 // bin_bp)
    region = stretches(*[(start, start + width) for start, width in pairs])
    inside = {base for start, width in pairs for base in range(start, start + width)}
    first = window_start + 20
    counts = [
        len(inside & set(range(first + bin_bp * number, first + bin_bp * (number + 1))))
        for number in range(geometry.num_bins)
    ]
    kept = [number for number, count in enumerate(counts) if 2 * count >= bin_bp]
    assert kept_bins("gene(span)", window_start=window_start, geometry=geometry, regions=[region]) == [kept]
    assert kept_bins("bed(x)", window_start=window_start, geometry=geometry, regions=[region]) == [kept]
    unseen = unseen_bp([region], window_start=window_start, geometry=geometry)
    assert unseen.tolist() == [len(inside - set(range(first, first + 20)))]


def test_a_bed_file_is_a_mask_of_its_contigs_intervals(tmp_path):
    (tmp_path / "open.bed").write_text("1\t1020\t1034\n1\t1028\t1046\n2\t1000\t1100\n")
    spans = load_spans("open.bed", {"chr1": 5000, "chr2": 5000}, data_dir=str(tmp_path)).spans
    assert isinstance(spans["chr1"], Spans)
    assert kept_bins("bed(open.bed)", regions=[spans["chr1"]]) == [[1, 2, 3]]
    assert kept_bins("bed(open.bed)", regions=[spans["chr2"]]) == [list(range(8))]


@pytest.mark.parametrize("number", [0, 2])
def test_a_bed_mask_wants_one_region(number):
    with pytest.raises(InputError, match=rf"mask bed\(x\): {number} regions; wanted the intervals of the window's"):
        kept_bins("bed(x)", regions=[stretches((0, 5))] * number)


def test_offsets_count_bases_from_the_variant_to_each_kept_bin():
    def offsets(text, *, geometry):
        where = {"window_start": 1000, "position": 1045, "geometry": geometry}
        return offsets_of_kept(make_masks(parse_mask(text), **where)[0], **where)

    by_base = Geometry(window_bp=100, bin_bp=1, crop_bins=10)
    assert offsets("center(7)", geometry=by_base).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert offsets("center(30)", geometry=SMALL).tolist() == [-15, -5, 5]  # bins of 10 bp, the variant in the middle
    assert offsets("crop", geometry=SMALL)[[0, -1]].tolist() == [1010 - 1045, 1080 - 1045]
