import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.framepool import FramePool, FramePoolConfig, build_framepool
from cisray.models.reach import reach_of
from label_networks import encode, num_weights, random_codes, settle


def build(num_tracks=2, window_bp=50, **sizes):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_framepool(FramePoolConfig(**sizes), geometry=geometry, num_tracks=num_tracks))


def test_the_number_of_parameters_is_the_published_one():
    first = 4 * 128 * 7 + 128 + 4 * 128  # and what is added to it
    others = 2 * (128 * 128 * 7 + 128)
    assert num_weights(build(1)) == first + others + (6 * 128 * 64 + 64) + (64 + 1) == 283_137


def test_it_is_the_published_computation():
    network = build(channels=5, width=7, hidden_units=6, dilations=(1, 3))
    codes = random_codes(3, 50)
    hidden = encode(codes)
    for added in network.local:
        (conv, _), beside = added.branches
        (step,) = conv.dilation
        changed = F.relu(F.conv1d(F.pad(hidden, (3 * step, 3 * step)), conv.weight, conv.bias, dilation=step))
        hidden = changed + (hidden if isinstance(beside, torch.nn.Identity) else F.conv1d(hidden, beside.weight))
    backwards = hidden.detach().numpy()[:, :, ::-1]
    pooled = [pool(backwards[:, :, frame::3], axis=2) for frame in range(3) for pool in (np.max, np.mean)]
    dense, tracks = network.head.hidden[0], network.head.tracks
    features = torch.from_numpy(np.concatenate(pooled, axis=1))
    expected = F.linear(F.relu(F.linear(features, dense.weight, dense.bias)), tracks.weight, tracks.bias)
    torch.testing.assert_close(network(codes), expected[:, None, :])


def test_with_positions_every_value_is_read_besides():
    hidden = torch.rand(2, 3, 20)
    read = FramePool(positions=True)(hidden)
    assert torch.equal(read[:, :18], FramePool()(hidden))
    assert torch.equal(read[:, 18:, 0], hidden.flatten(1))
    network = build(positions=True, channels=4, input_dropout=0.5, dropout=0.0)
    codes = random_codes(2, 50)
    assert torch.equal(network(codes), network(codes))  # settled: nothing is left out
    network.train()
    assert not torch.equal(network(codes), network(codes))


@pytest.mark.parametrize("length", [3, 4, 5, 50])
def test_frames_are_counted_from_the_end(length):
    hidden = torch.zeros(1, 1, length)
    for back in range(length):
        spike = hidden.clone()
        spike[0, 0, length - 1 - back] = 1.0
        best = FramePool()(spike)[0, ::2, 0].tolist()
        assert best == [float(back % 3 == frame) for frame in range(3)]


def test_whole_codons_before_the_window_change_no_frame():
    hidden = torch.rand(2, 3, 20, dtype=torch.float64)
    longer = torch.cat([torch.zeros(2, 3, 6, dtype=torch.float64), hidden], dim=2)
    np.testing.assert_allclose(
        FramePool()(longer).view(2, 3, 2, 3)[:, :, 0], FramePool()(hidden).view(2, 3, 2, 3)[:, :, 0]
    )


def test_a_base_moves_what_its_layers_see():
    network = build(dilations=(1, 1), channels=4)
    (reach,) = reach_of(network.local)
    assert (reach.stride_bp, reach.start_bp, reach.end_bp) == (1, -6, 7)
    (by_codons,) = reach_of(build(dilations=(1, 3), channels=4).local)
    assert (by_codons.start_bp, by_codons.end_bp) == (-12, 13)
    codes = random_codes(1, 50)
    changed = codes.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 4
    moved = (network.local(encode(changed)) != network.local(encode(codes))).any(dim=1)[0].nonzero()[:, 0].tolist()
    assert moved
    assert set(moved) <= set(range(14, 27))


def test_what_it_cannot_read_is_refused():
    with pytest.raises(InputError, match="a window of 2 bp has no three frames; wanted at least 3 bp"):
        build(window_bp=2)
    with pytest.raises(InputError, match="framepool labels a window as a whole"):
        build_framepool(FramePoolConfig(), geometry=Geometry(window_bp=60, bin_bp=20), num_tracks=1)
    with pytest.raises(ValidationError, match="dilations"):
        FramePoolConfig(dilations=(0,))
    with pytest.raises(ValidationError, match="at least one"):
        FramePoolConfig(dilations=())
