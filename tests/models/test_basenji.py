import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji

SMALL = BasenjiConfig(
    stem_channels=6,
    stem_width=7,
    channels=9,
    tower_width=3,
    dilated_layers=2,
    dilated_channels=4,
    head_channels=5,
    dropout=0.0,
)


def build(config=SMALL, *, window_bp=64, bin_bp=8, crop_bins=0, num_tracks=2):
    """Build a network in float64 whose batch norms have seen data."""
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    network = build_basenji(config, geometry=geometry, num_tracks=num_tracks).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def random_codes(*shape):
    return torch.from_numpy(np.random.default_rng(2).integers(0, 4, shape, np.uint8))


def test_the_number_of_parameters_is_the_one_worked_out_by_hand():
    # bins of 8 are three pools of 2, so the channels grow 6, 7.35 -> 7, 9
    stem = 4 * 6 * 7 + 2 * 6
    tower = (6 * 7 * 3 + 2 * 7) + (7 * 9 * 3 + 2 * 9)
    block = (9 * 4 * 3 + 2 * 4) + (4 * 9 * 1 + 2 * 9)
    head = (9 * 5 + 2 * 5) + (5 * 2 + 2)
    network = build()
    assert sum(weight.numel() for weight in network.parameters()) == stem + tower + 2 * block + head
    assert sum(weight.numel() for weight in network.local.parameters()) == stem + tower
    dilations = [block.layers[1].dilation[0] for block in network.context]
    assert dilations == [1, 2]


@pytest.mark.parametrize(
    ("window_bp", "bin_bp", "crop_bins"),
    [(20, 1, 0), (20, 1, 3), (160, 16, 2), (350, 50, 0), (350, 50, 3), (1024, 128, 1)],
)
def test_shapes_of_window_bin_and_crop(window_bp, bin_bp, crop_bins):
    network = build(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins, num_tracks=3)
    rates = network(random_codes(2, window_bp))
    assert rates.shape == (2, window_bp // bin_bp - 2 * crop_bins, 3)
    assert (rates > 0).all()


def test_the_crop_cuts_the_bins_of_both_ends():
    codes = random_codes(2, 64)
    whole, cropped = build(), build(crop_bins=2)
    assert torch.equal(cropped(codes), whole(codes)[:, 2:-2])


def reach_bins(network, bin_bp, window_bp):
    """Return by how many bins at most the change of one base moves `local`."""
    codes = random_codes(1, window_bp)
    middle = window_bp // 2
    changed = codes.clone()
    changed[0, middle] = (changed[0, middle] + 1) % 4
    hidden = [network.local(torch.nn.functional.one_hot(c.long(), 4).double().mT) for c in (codes, changed)]
    moved = (hidden[0] != hidden[1]).any(dim=1)[0].nonzero()[:, 0]
    return (moved - middle // bin_bp).abs().max().item()


def test_a_base_moves_only_the_bins_within_reach():
    # stem: 3 bases either way; tower convolutions: 1 position of 2 bases and 1 of 4: 9 bases are within 2 bins of 8
    network = build(window_bp=256)
    assert 1 <= reach_bins(network, 8, 256) <= 2


def test_local_moves_with_the_sequence():
    network = build(window_bp=256)
    codes = random_codes(1, 256 + 8)
    one, other = (
        network.local(torch.nn.functional.one_hot(part.long(), 4).double().mT)
        for part in (codes[:, :256], codes[:, 8:])
    )
    inside = slice(2, -2)
    torch.testing.assert_close(one[:, :, 1:][:, :, inside], other[:, :, :-1][:, :, inside], rtol=0, atol=1e-12)
    assert not torch.allclose(one[:, :, inside], other[:, :, inside])


def test_a_network_sees_far_beyond_local():
    network = build(window_bp=256)
    codes = random_codes(1, 256)
    changed = codes.clone()
    changed[0, 128] = (changed[0, 128] + 1) % 4
    moved = (network(codes) != network(changed)).any(dim=2)[0].nonzero()[:, 0]
    assert (moved - 16).abs().max() > reach_bins(network, 8, 256)


def test_a_network_of_a_hundred_million_parameters_can_be_configured():
    config = BasenjiConfig(
        stem_channels=768, channels=1536, dilated_layers=11, dilated_channels=768, head_channels=3072
    )
    geometry = Geometry(window_bp=131_072, bin_bp=128, crop_bins=64)
    with torch.device("meta"):
        network = build_basenji(config, geometry=geometry, num_tracks=5313)
        rates = network(torch.empty(1, 131_072, dtype=torch.uint8))
    assert rates.shape == (1, 896, 5313)
    assert sum(weight.numel() for weight in network.parameters()) > 100_000_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 0}, "channels=0; wanted a positive number"),
        ({"stem_width": -3}, "stem_width=-3"),
        ({"dilated_layers": -1}, "dilated_layers=-1"),
        ({"dilation_rate": 0.5}, r"dilation_rate=0\.5"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        BasenjiConfig(**fields)
