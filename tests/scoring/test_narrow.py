import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.models.basenji2018 import DenseDilated
from cisray.models.bpnet import DilatedLayer
from cisray.models.layers import DilatedResidual, Residual
from cisray.scoring.narrow import Narrow, inlaid, is_narrow, reads_neighbours, record, widen, widened

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
    starts=st.lists(st.integers(0, 24), min_size=3, max_size=3),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=80)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@torch.no_grad()
def test_what_changed_made_anew_is_what_the_whole_gives(layers, length, width, starts, seed):
    torch.manual_seed(seed)
    stack = nn.Sequential(*layers).double().eval()
    for parameter in stack.parameters():
        nn.init.normal_(parameter)
    references = torch.randn(2, CHANNELS, length, dtype=torch.float64)
    which = [0, 1, 0]
    changed = references[which].clone()
    for row, start in enumerate(starts):
        changed[row, :, start : start + width] += 1
    values = torch.stack([changed[row, :, start : start + width] for row, start in enumerate(starts)])

    kept = []
    outputs = record(stack, references, kept)
    torch.testing.assert_close(outputs, stack(references), rtol=0, atol=1e-9)
    found = widen(stack, Narrow(values, starts), iter([[each[one] for one in which] for each in kept]))
    whole = inlaid([outputs[one] for one in which], [0] * 3, outputs.shape[2], found)
    torch.testing.assert_close(whole, stack(changed), rtol=1e-9, atol=1e-9)
    assert is_narrow(stack)


def test_widths_grow_with_what_layers_read():
    stack = nn.Sequential(conv(3, 2, "same"), nn.ReLU(), DilatedLayer(CHANNELS, dilation=4, padding="same"))
    widths = []
    assert widened(stack, 5, 100, widths) == 5 + 4 + 8
    assert widths == [9, 17]
    assert widened(stack, 5, 12, []) == 12


@pytest.mark.parametrize("layer", [nn.LSTM(3, 3), nn.MaxPool1d(2), nn.Sequential(nn.Conv1d(3, 3, 3, stride=2)), conv(3, 1, 2)])
def test_layers_without_a_rule_are_not_narrow(layer):
    assert not is_narrow(layer)


def test_pointwise_layers_read_no_neighbours():
    assert not reads_neighbours(nn.Sequential(nn.ReLU(), conv(1, 1, "same")))
    assert reads_neighbours(nn.Sequential(nn.ReLU(), conv(2, 1, "same")))


def test_values_are_laid_in_where_they_overlap():
    references = [torch.zeros(1, 8), torch.ones(1, 8)]
    narrow = Narrow(torch.full((2, 1, 3), 5.0), [1, 6])
    assert inlaid(references, [2, 4], 4, narrow)[:, 0].tolist() == [[5, 5, 0, 0], [1, 1, 5, 5]]
