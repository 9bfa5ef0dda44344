import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.labels import (
    BidirectionalLSTM,
    DenseHead,
    LabelNetwork,
    MotifConv,
    WholeMaxPool,
    derive_positions,
)
from label_networks import random_codes

STAGES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4)


def tower(stages):
    local, channels = nn.Sequential(), 4
    for width, pool in stages:
        local.append(MotifConv(channels, 2, width=width))
        local.append(WholeMaxPool(pool))
        channels = 2
    return local


def least_window(stages):
    """Go back from one position through the pools and convolutions."""
    bases = 1
    for width, pool in reversed(stages):
        bases = bases * pool + width - 1
    return bases


@settings(max_examples=40)
@given(STAGES, st.integers(0, 60))
def test_positions_are_those_that_the_layers_leave(stages, more):
    local = tower(stages)
    window_bp = least_window(stages) + more
    with torch.no_grad():
        left = local(torch.zeros(1, 4, window_bp)).shape[2]
    assert derive_positions("toy", local, Geometry(window_bp=window_bp, bin_bp=window_bp)) == left
    assert left >= 1


@settings(max_examples=40)
@given(STAGES)
def test_the_least_window_is_the_least(stages):
    local = tower(stages)
    least = least_window(stages)
    assert local(torch.zeros(1, 4, least)).shape[2] == 1
    if least > 1:
        with pytest.raises(InputError, match=f"toy: a window of {least - 1} bp .* wanted at least {least} bp"):
            derive_positions("toy", local, Geometry(window_bp=least - 1, bin_bp=least - 1))


def test_several_bins_are_not_one_label():
    with pytest.raises(InputError, match="toy labels a window as a whole, but the geometry has 5 bins; wanted one"):
        derive_positions("toy", tower([(3, 2)]), Geometry(window_bp=1000, bin_bp=200))


def test_a_pool_leaves_out_what_fills_none():
    hidden = torch.randn(2, 3, 11)
    assert torch.equal(WholeMaxPool(4)(hidden), nn.functional.max_pool1d(hidden, 4))


def test_the_lstm_is_torchs_with_one_bias_per_gate():
    torch.manual_seed(0)
    ours, theirs = BidirectionalLSTM(5, 3), nn.LSTM(5, 3, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for side in ("", "_reverse"):
            weight = getattr(ours.lstm, f"weight_ih_l0{side}")
            weight[:, -1] = torch.randn(12)
            getattr(theirs, f"weight_ih_l0{side}").copy_(weight[:, :-1])
            getattr(theirs, f"bias_ih_l0{side}").copy_(weight[:, -1])
            getattr(theirs, f"bias_hh_l0{side}").zero_()
            getattr(theirs, f"weight_hh_l0{side}").copy_(getattr(ours.lstm, f"weight_hh_l0{side}"))
    hidden = torch.randn(2, 5, 7)
    torch.testing.assert_close(ours(hidden), theirs(hidden.mT)[0].mT)
    one_bias_per_gate = 2 * 4 * 3 * (5 + 1 + 3)
    assert sum(weight.numel() for weight in ours.parameters()) == one_bias_per_gate


def test_the_forget_gates_start_open():
    for name, weight in BidirectionalLSTM(5, 3).lstm.named_parameters():
        if name.startswith("weight_ih"):
            assert weight[:, -1].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]  # torch's order: input, forget, ...


def test_a_head_starts_at_the_labels_shares():
    torch.manual_seed(0)
    shares = [0.0, 0.02, 0.5, 0.98, 1.0, math.nan]
    head = DenseHead(8 * 3, [16], len(shares), norm=True)
    head.start_at(shares)
    chances = torch.sigmoid(head(torch.randn(200, 8, 3))).mean(dim=(0, 2))
    torch.testing.assert_close(chances, torch.tensor([1e-3, 0.02, 0.5, 0.98, 0.999, 1e-3]), rtol=0.05, atol=0.005)


def test_a_label_network_returns_one_logit_per_window_and_track():
    network = LabelNetwork(local=tower([(3, 2)]), context=nn.Identity(), head=DenseHead(2 * 9, [], 5))
    assert network(random_codes(4, 20)).shape == (4, 1, 5)
    assert network.link == "sigmoid"


def test_an_epoch_may_end_with_one_example():
    torch.manual_seed(0)
    head = DenseHead(8 * 3, [16, 4], 2, norm=True)
    head(torch.randn(50, 8, 3))  # gives the norms something to go by
    with torch.no_grad():
        head.tracks.weight.normal_()
    alone = torch.randn(1, 8, 3)
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    learned = head.train()(alone)
    torch.testing.assert_close(learned, head.eval()(alone))
    for name, buffer in head.named_buffers():
        assert torch.equal(buffer, before[name]), name
    learned.sum().backward()
    assert all(weight.grad is not None for weight in head.parameters())
    two = torch.cat([alone, alone + 1])
    assert not torch.allclose(head.train()(two), head.eval()(two))  # which have a variance of their own
