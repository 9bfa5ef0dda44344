import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.models.basenji2018 import DenseDilated
from cisray.models.bpnet import DilatedLayer
from cisray.models.layers import DilatedResidual, Residual
from cisray.scoring import narrow
from cisray.scoring.narrow import Narrow, added, beside_rows, is_narrow, reads_neighbours, record, widen, widened

CHANNELS = 3


def conv(width, dilation, padding):
    return nn.Conv1d(CHANNELS, CHANNELS, width, padding=padding, dilation=dilation)


WIDTHS, DILATIONS = st.integers(1, 5), st.integers(1, 3)
LAYERS = st.one_of(
    st.builds(conv, WIDTHS, DILATIONS, st.sampled_from(["same", "valid", 0])),
    st.builds(lambda width: Residual(nn.Sequential(nn.GELU(), conv(width, 1, "same"))), WIDTHS),
    st.builds(lambda dilation: DilatedResidual(CHANNELS, 2, dilation=dilation, dropout=0.1), DILATIONS),
    st.builds(
        lambda dilation, padding: DilatedLayer(CHANNELS, dilation=dilation, padding=padding),
        DILATIONS,
        st.sampled_from(["same", "valid"]),
    ),
    st.builds(lambda: nn.Sequential(DenseDilated(CHANNELS, 2, dilation=2, dropout=0.0), nn.Conv1d(5, CHANNELS, 1))),
    st.sampled_from([nn.ReLU(), nn.BatchNorm1d(CHANNELS), nn.Identity()]),
)


@given(
    layers=st.lists(LAYERS, min_size=1, max_size=4),
    length=st.integers(60, 70),
    width=st.integers(1, 6),
    starts=st.lists(st.integers(0, 54), min_size=3, max_size=3),
    few_channels=st.sampled_from([0, 99]),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=80)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@torch.no_grad()
def test_what_changed_made_anew_is_what_the_whole_gives(layers, length, width, starts, few_channels, seed):
    torch.manual_seed(seed)
    stack = nn.Sequential(*layers).double().eval()
    for parameter in stack.parameters():
        nn.init.normal_(parameter)
    references = torch.randn(2, CHANNELS, length, dtype=torch.float64)
    which = [0, 1, 0]
    added_values = torch.randn(3, width, CHANNELS, dtype=torch.float64)
    changed = references[which].clone()
    for row, start in enumerate(starts):
        changed[row, :, start : start + width] += added_values[row].mT

    kept = []
    outputs = record(stack, references.mT.contiguous(), kept)
    torch.testing.assert_close(outputs.mT, stack(references), rtol=0, atol=1e-9)
    one, other = kept, list(kept)  # two recordings, as of windows that were not predicted together
    rows = beside_rows([(one, 0), (other, 1), (one, 0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "FEW_CHANNELS", few_channels)
        found = widen(stack, Narrow(added_values, np.array(starts), length), rows)
    assert found.length == outputs.shape[1]
    zeros = np.zeros(3, np.int64)
    whole = added(Narrow(outputs[which].clone(), zeros, found.length), found)
    torch.testing.assert_close(whole.values.mT, stack(changed), rtol=1e-9, atol=1e-9)
    assert is_narrow(stack)


@torch.no_grad()
def test_a_small_change_keeps_its_digits_in_single_precision():
    torch.manual_seed(0)
    stack = nn.Sequential(*(DilatedLayer(CHANNELS, dilation=2**layer, padding="same") for layer in range(5))).eval()
    reference, change = torch.randn(1, 80, CHANNELS), 1e-5 * torch.randn(1, 1, CHANNELS)
    kept = []
    record(stack, reference, kept)
    found = widen(stack, Narrow(change, np.array([40]), 80), beside_rows([(kept, 0)]))
    double = stack.double()
    changed = reference.double().clone()
    changed[:, 40] += change[0, 0]
    exact = (double(changed.mT) - double(reference.double().mT)).mT[:, int(found.starts[0]) :][:, : found.width]
    assert (found.values - exact).abs().max() < 1e-6 * exact.abs().max()


def test_widths_grow_with_what_layers_read():
    stack = nn.Sequential(conv(3, 2, "same"), nn.ReLU(), DilatedLayer(CHANNELS, dilation=4, padding="same"))
    widths = []
    assert widened(stack, 5, 100, widths) == 5 + 4 + 8
    assert widths == [9, 17]
    assert widened(stack, 5, 12, []) == 12


@pytest.mark.parametrize(
    "layer", [nn.LSTM(3, 3), nn.MaxPool1d(2), nn.Sequential(nn.Conv1d(3, 3, 3, stride=2)), conv(3, 1, 2)]
)
def test_layers_without_a_rule_are_not_narrow(layer):
    assert not is_narrow(layer)


def test_pointwise_layers_read_no_neighbours():
    assert not reads_neighbours(nn.Sequential(nn.ReLU(), conv(1, 1, "same")))
    assert reads_neighbours(nn.Sequential(nn.ReLU(), conv(2, 1, "same")))


def test_runs_are_added_where_they_overlap():
    target = Narrow(torch.zeros(3, 4, 1), np.array([2, 4, 4]), 8)
    found = added(target, Narrow(torch.tensor([5.0, 6, 7]).expand(3, 3)[:, :, None], np.array([1, 6, 4]), 8))
    assert found.values[:, :, 0].tolist() == [[6, 7, 0, 0], [0, 0, 5, 6], [5, 6, 7, 0]]


def test_the_reference_is_read_from_where_each_row_has_its_own():
    first, second = torch.arange(8.0).reshape(1, 8, 1), 10 * torch.arange(16.0).reshape(2, 8, 1)
    (beside,) = beside_rows([([first], 0), ([second], 1), ([second], 0)])
    found = beside.run(np.array([3, 5, -1]), 3)[:, :, 0]
    assert found[:2].tolist() == [[3, 4, 5], [130, 140, 150]]
    assert found[2, 1:].tolist() == [0, 10]  # before the window stands any number
