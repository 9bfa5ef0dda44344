from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.datasets.card import Track
from cisray.datasets.peaks.labels import Labeler, LabelSpec
from cisray.datasets.peaks.peak_files import ContigPeaks, Peaks
from cisray.errors import InputError
from cisray.geometry import Geometry

CONTIG_BP = 120


def make_peaks(rows, num_tracks):
    """Make the peaks of one contig of rows (start, end, summit, track)."""
    columns = np.array(sorted(rows), np.int64).reshape(-1, 4).T
    tracks = tuple(Track(name=f"t{number}", file="t.bed") for number in range(num_tracks))
    return Peaks(tracks, {"chr1": ContigPeaks(*columns)}, [Path("t.bed")], {}, {}, 0)


def slow_label(rows, track, first, last, spec):
    """Decide one bin base by base."""
    own = [(start, end, summit) for start, end, summit, number in rows if number == track]
    covered = [base for base in range(first, last) if any(start <= base < end for start, end, _ in own)]
    centre = first + (last - first) // 2
    if spec.rule == "summit":
        if spec.summit_bp is None:
            label = any(first <= summit < last for _, _, summit in own)
        else:
            label = any(abs(summit - centre) <= spec.summit_bp for _, _, summit in own)
    elif spec.overlap_of == "bin":
        label = len(covered) > spec.min_overlap_fraction * (last - first)
    else:
        shared = [(len(set(range(start, end)) & set(range(first, last))), end - start) for start, end, _ in own]
        whole = (lambda width: width) if spec.overlap_of == "peak" else (lambda width: min(width, last - first))
        label = any(bases > spec.min_overlap_fraction * whole(width) for bases, width in shared)
    return 1 if label else 255 if covered and spec.partial == "unknown" else 0


@st.composite
def peak_rows(draw):
    start = draw(st.integers(0, CONTIG_BP - 1))
    end = draw(st.integers(start + 1, min(CONTIG_BP, start + 40)))
    return start, end, draw(st.integers(start, end - 1)), draw(st.integers(0, 2))


SPECS = st.one_of(
    st.builds(
        LabelSpec,
        rule=st.just("overlap"),
        min_overlap_fraction=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
        overlap_of=st.sampled_from(["bin", "peak", "smaller"]),
        partial=st.sampled_from(["zero", "unknown"]),
    ),
    st.builds(
        LabelSpec,
        rule=st.just("summit"),
        summit_bp=st.sampled_from([None, 0, 3, 12]),
        partial=st.sampled_from(["zero", "unknown"]),
    ),
)
GEOMETRIES = st.builds(
    Geometry, window_bp=st.sampled_from([24, 48]), bin_bp=st.sampled_from([1, 4, 8]), crop_bins=st.integers(0, 1)
)


@given(st.lists(peak_rows(), max_size=8), SPECS, GEOMETRIES, st.lists(st.integers(-8, CONTIG_BP), max_size=6))
def test_labels_are_those_of_a_computation_base_by_base(rows, spec, geometry, starts):
    labels = Labeler(make_peaks(rows, 3), spec, geometry).labels("chr1", np.array(sorted(starts), np.int64))
    dense = labels.dense()
    assert dense.shape == (len(starts), geometry.num_bins, 3)
    for window, start in enumerate(sorted(starts)):
        for number in range(geometry.num_bins):
            first = start + geometry.crop_bp + number * geometry.bin_bp
            for track in range(3):
                expected = slow_label(rows, track, first, first + geometry.bin_bp, spec)
                assert dense[window, number, track] == expected, (start, number, track)
    assert labels.positive().tolist() == (dense == 1).any(axis=(1, 2)).tolist()
    assert labels.positive(1).tolist() == (dense == 1).any(axis=1)[:, 1].tolist()


def test_deepsea_labels_more_than_half_of_the_middle_bin():
    geometry = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)
    labeler = Labeler(make_peaks([(0, 500, 250, 0)], 1), LabelSpec(), geometry)
    # 101, 100 and no bases of the bin that begins 400 bases into the window
    assert labeler.labels("chr1", np.array([-1, 0, 100])).dense().ravel().tolist() == [1, 0, 0]
    assert labeler.labels("chr2", np.array([0])).dense().tolist() == [[[0]]]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min_overlap_fraction": 1.0}, "wanted 0 or more and less than 1"),
        ({"summit_bp": 5}, 'summit_bp=5; wanted 0 or more, and rule = "summit"'),
        ({"rule": "summit", "summit_bp": -1}, "summit_bp=-1"),
        ({"summit_column": 3}, "summit_column=3; a BED file's own columns begin with 4"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, told):
    with pytest.raises(InputError, match=told):
        check_settings(wrong, LabelSpec, source="job")
