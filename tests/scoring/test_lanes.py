import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cisray.geometry import Geometry
from cisray.scoring.lanes import in_reference_coordinates
from cisray.scoring.windows import PlacedEdit
from engine_cases import in_reference_coordinates as plainly

LENGTH = 6


@given(start=st.integers(0, LENGTH - 1), removed=st.integers(0, 4), inserted=st.integers(0, 4), crop=st.integers(0, 2))
def test_every_base_finds_its_own_prediction(start, removed, inserted, crop):
    removed = min(removed, LENGTH - start)
    random = np.random.default_rng(start)
    reference, alternate = (torch.from_numpy(random.normal(size=(LENGTH, 2))) for _ in range(2))
    edit = PlacedEdit(start - crop, removed, np.zeros(inserted, np.uint8), np.ones((1, LENGTH), bool))
    geometry = Geometry(window_bp=LENGTH + 2 * crop, bin_bp=1, crop_bins=crop)
    expected = plainly(alternate, reference, edit, start=start, geometry=geometry)
    assert torch.equal(in_reference_coordinates(alternate, reference, edit), expected)


def test_an_insertion_is_its_largest_value_and_a_deletion_zero():
    reference, alternate = torch.arange(6.0)[:, None], torch.tensor([0.0, 1.0, 9.0, 7.0, 2.0, 3.0])[:, None]
    insertion = PlacedEdit(2, 0, np.zeros(2, np.uint8), np.ones((1, 6), bool))
    # bases 2 and 3 of the alternate are inserted; 4 and 5 of the reference have been pushed out
    assert in_reference_coordinates(alternate, reference, insertion)[:, 0].tolist() == [0, 9, 2, 3, 4, 5]
    deletion = PlacedEdit(2, 2, np.zeros(0, np.uint8), np.ones((1, 6), bool))
    assert in_reference_coordinates(alternate, reference, deletion)[:, 0].tolist() == [0, 1, 0, 0, 9, 7]
