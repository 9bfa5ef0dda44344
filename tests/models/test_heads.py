import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cisray.errors import InputError
from cisray.models.heads import NamedHeads, head_sizes
from large_networks import random_codes, small_enformer


def test_each_head_is_a_pointwise_layer_of_what_all_share():
    torch.manual_seed(0)
    heads = NamedHeads(nn.Conv1d(4, 6, 1), 6, {"human": 3, "mouse": 2})
    hidden = torch.randn(2, 4, 7)
    for name, number in (("human", 3), ("mouse", 2)):
        weight, bias = heads.tracks[name].weight[:, :, 0], heads.tracks[name].bias
        expected = F.softplus(torch.einsum("tc,bcn->btn", weight, heads.shared(hidden)) + bias[:, None])
        assert expected.shape == (2, number, 7)
        torch.testing.assert_close(heads(hidden, name), expected)


def test_the_only_head_needs_no_name():
    network = small_enformer(num_tracks=5)
    codes = random_codes(1, 256)
    assert sorted(name for name in network.state_dict() if ".tracks." in name) == [
        "head.tracks.tracks.bias",
        "head.tracks.tracks.weight",
    ]
    assert torch.equal(network(codes), network(codes, "tracks"))


def test_a_head_is_the_same_alone_and_among_others():
    codes = random_codes(1, 256)
    both, alone = small_enformer(), small_enformer(num_tracks={"mouse": 3})
    assert both(codes, "human").shape == (1, 8, 5)
    alone.load_state_dict({name: both.state_dict()[name] for name in alone.state_dict()})
    assert torch.equal(both(codes, "mouse"), alone(codes))


def test_a_head_starts_at_the_means_and_leaves_the_others_alone():
    heads = NamedHeads(nn.Identity(), 8, {"human": 4, "mouse": 2})
    before = heads.tracks["mouse"].weight.clone()
    heads.start_at([0.02, 1.0, 300.0, math.nan], "human")
    rates = heads(torch.randn(50, 8, 20), "human").mean(dim=(0, 2)).detach().numpy()
    np.testing.assert_allclose(rates, [0.02, 1.0, 300.0, 1e-3], rtol=0.05)
    assert torch.equal(heads.tracks["mouse"].weight, before)


def test_rates_keep_their_digits_under_autocast():
    torch.manual_seed(0)
    heads = NamedHeads(nn.Identity(), 64, {"human": 200})
    hidden = torch.randn(1, 64, 9).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        rates = heads(hidden.bfloat16())
    assert rates.dtype == torch.float32
    torch.testing.assert_close(rates, heads(hidden))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "this network has several heads; name one of human, mouse"),
        ("fly", "head 'fly' is not in this network; its heads are human, mouse"),
    ],
)
def test_a_head_must_be_one_that_is_there(name, message):
    heads = NamedHeads(nn.Identity(), 8, {"human": 4, "mouse": 2})
    with pytest.raises(InputError, match=message):
        heads(torch.zeros(1, 8, 3), name)


@pytest.mark.parametrize(
    ("num_tracks", "message"),
    [
        ({}, "num_tracks names no head; wanted a number of tracks"),
        (0, "head 'tracks' has 0 tracks; wanted at least 1"),
        ({"human": -1}, "head 'human' has -1 tracks"),
        ({"homo sapiens": 1}, "head 'homo sapiens'; wanted a name of letters"),
        ({"hg38.p1": 1}, r"head 'hg38\.p1'; wanted a name"),
        ({"items": 1}, "head 'items'; wanted a name of letters, digits and _, and none of torch's own words"),
    ],
)
def test_heads_that_cannot_be_are_refused(num_tracks, message):
    with pytest.raises(InputError, match=message):
        head_sizes(num_tracks)
