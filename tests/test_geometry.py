import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.geometry import Geometry


def test_a_geometry_that_can_be_checked_by_eye():
    geometry = Geometry(window_bp=1000, bin_bp=50, crop_bins=3, margin_bp=7)
    assert (geometry.num_bins, geometry.crop_bp, geometry.target_bp, geometry.stored_bp) == (14, 150, 700, 1014)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 20), st.integers(0, 100))
def test_crops_and_bins_fill_the_window(bin_bp, num_bins, crop_bins, margin_bp):
    window_bp = bin_bp * (num_bins + 2 * crop_bins)
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins, margin_bp=margin_bp)
    assert geometry.num_bins == num_bins
    assert geometry.crop_bp + geometry.target_bp + geometry.crop_bp == window_bp
    assert geometry.stored_bp - window_bp == 2 * margin_bp


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"window_bp": 100, "bin_bp": 16}, r"not a multiple of bin_bp=16 \(remainder 4\)"),
        ({"window_bp": 64, "bin_bp": 16, "crop_bins": 2}, "leaves none of the 4 bins"),
        ({"window_bp": 64, "bin_bp": 0}, "below its least value"),
        ({"window_bp": 64, "bin_bp": 16, "margin_bp": -1}, "below its least value"),
        ({"window_bp": 0, "bin_bp": 16}, "below its least value"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(lengths, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        Geometry(**lengths)
