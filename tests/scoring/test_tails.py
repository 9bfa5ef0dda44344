import numpy as np
import pytest
import torch
from torch import nn

from cisray.models.bpnet import ProfileHead
from cisray.scoring.narrow import Narrow, beside_rows
from cisray.scoring.readout import Readout
from cisray.scoring.tails import Bins, PointwiseTail, ProfileTail, cut_bins, tail_of
from engine_cases import model_of


def test_bins_are_counted_backwards_where_a_window_is_read_so():
    bins = Bins([0, 3], 4)
    assert bins.as_read(10, reverse=True) == Bins([6, 3], 4)
    assert bins.as_read(10, reverse=False) is bins


def test_bins_of_one_prediction_are_a_view_and_of_several_are_stacked():
    one, other = torch.arange(12.0).reshape(6, 2), torch.zeros(6, 2)
    same = cut_bins([one, one, one], Bins([2, 2, 2], 3))
    assert same.shape == (3, 3, 2)
    assert same.data_ptr() == one[2:].data_ptr()
    mixed = cut_bins([one, other, one], Bins([2, 0, 3], 3))
    assert torch.equal(mixed, torch.stack([one[2:5], other[:3], one[3:6]]))


def test_heads_whose_predictions_read_all_bins_have_no_tail():
    assert isinstance(tail_of(model_of("basenji2").network.head, crop_bins=3), PointwiseTail)
    assert isinstance(tail_of(model_of("bpnet").network.head, crop_bins=0), ProfileTail)
    assert tail_of(model_of("basset").network.head, crop_bins=0) is None
    assert tail_of(nn.Conv1d(3, 2, 5, padding="same"), crop_bins=0) is None
    assert isinstance(tail_of(nn.Conv1d(3, 2, 1), crop_bins=0), PointwiseTail)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["basenji2", "bpnet", "chrombpnet"])
@torch.no_grad()
def test_bins_predicted_from_what_changed_are_those_of_the_whole(name, reverse):
    model = model_of(name)
    network, crop = model.network, model.network.crop_bins
    tail, readout = tail_of(network.head, crop_bins=crop), Readout(model, None, both=True)
    num_bins = model.geometry.num_bins
    lost = num_bins + 2 * crop
    if isinstance(network.head, ProfileHead):
        lost += (network.head.profile.kernel_size[0] - 1) * (network.head.profile.padding == "valid")
    torch.manual_seed(0)
    channels = next(network.head.parameters()).shape[1]
    references = torch.randn(2, lost, channels, dtype=torch.float64)
    change, starts = torch.randn(3, 9, channels, dtype=torch.float64), np.array([0, lost // 2, lost - 9])
    whole = references[[0, 1, 1]].clone()
    for row, start in enumerate(starts):
        whole[row, start : start + 9] += change[row]
    kept = []
    predictions = readout(tail.record(references, kept), reverse=reverse)
    hidden = whole[:, crop : lost - crop].mT
    outputs = network.head(hidden)
    expected = readout(outputs.mT if isinstance(outputs, torch.Tensor) else outputs, reverse=reverse)
    for bins in (Bins([0, num_bins // 2 - 3, num_bins - 6], 6), Bins([0] * 3, num_bins)):
        rows = beside_rows([(kept, 0), (kept, 1), (kept, 1)])
        changed = Narrow(change.clone(), starts, lost)
        of_rows = [predictions[row] for row in (0, 1, 1)]
        found = torch.full((3, bins.width, 3), torch.nan, dtype=torch.float64)
        tail.widen(changed, rows, of_rows, bins, readout, found, reverse=reverse)
        torch.testing.assert_close(found, cut_bins(list(expected), bins), rtol=1e-9, atol=1e-12)
