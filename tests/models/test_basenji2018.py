import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji2018 import Basenji2018Config, build_basenji2018
from cisray.models.reach import check_geometry
from label_networks import encode, num_weights, random_codes, settle

SMALL = Basenji2018Config(
    channels=(3, 4, 5), widths=(6, 1, 3), pools=(1, 2, 4), dilated_layers=2, dilated_channels=2, head_channels=6
)


def build(*, window_bp=64, crop_bins=0, num_tracks=2):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=8, crop_bins=crop_bins)
    return settle(build_basenji2018(SMALL, geometry=geometry, num_tracks=num_tracks))


def test_the_number_of_parameters_is_that_of_the_published_layers():
    # the parameters published with the paper; two weights per normalised channel, no other biases but the tracks'
    tower = [(4, 312, 22), (312, 368, 1), (368, 435, 6), (435, 514, 6), (514, 607, 6), (607, 717, 3)]
    dilated = [(717 + 108 * layer, 108, 3) for layer in range(6)]
    hidden = (717 + 6 * 108, 1365, 1)
    assert hidden[0] == 1365
    layers = sum(before * after * width + 2 * after for before, after, width in [*tower, *dilated, hidden])
    geometry = Geometry(window_bp=131_072, bin_bp=128, crop_bins=32)
    with torch.device("meta"):
        network = build_basenji2018(Basenji2018Config(), geometry=geometry, num_tracks=4229)
        assert network(torch.empty(1, 131_072, dtype=torch.uint8)).shape == (1, 960, 4229)
    assert num_weights(network) == layers + (1365 * 4229 + 4229) == 15_190_636
    assert [layer.block[2].dilation[0] for layer in network.context] == [2, 4, 8, 16, 32, 64]


def block(hidden, layers, *, dilation=1, pool=1):
    conv, norm = layers[2], layers[3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an even width: torch pads a copy
        hidden = F.conv1d(F.relu(hidden), conv.weight, padding="same", dilation=dilation)
    hidden = F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    return F.max_pool1d(hidden, pool)


def test_it_is_the_published_computation():
    network = build(crop_bins=1)
    codes = random_codes(2, 64)
    hidden = encode(codes)
    for layers, pool in zip(network.local, (1, 2, 4), strict=True):
        hidden = block(hidden, layers, pool=pool)
    for layer, dilation in zip(network.context, (2, 4), strict=True):
        hidden = torch.cat([hidden, block(hidden, layer.block, dilation=dilation)], dim=1)
    hidden = F.relu(block(hidden[:, :, 1:-1], network.head.hidden[0]))
    tracks = F.conv1d(hidden, network.head.tracks.weight, network.head.tracks.bias).mT
    expected = torch.where(tracks > 0, tracks + 1, tracks.exp())
    torch.testing.assert_close(network(codes), expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    assert (network(codes) > 0).all()


def test_geometry_is_what_the_layers_say():
    (reach,) = check_geometry(build(window_bp=128))
    # the even stem reads two bases to the left and three to the right; the last convolution one bin of two to each side
    assert reach == (8, -2 - 2, 8 + 3 + 2)


def test_a_head_starts_at_the_means():
    network = build(num_tracks=4).float()
    means = [0.02, 1.0, 30.0, math.nan]
    network.head.start_at(means)
    rates = network(random_codes(20, 64)).mean(dim=(0, 1))
    torch.testing.assert_close(rates, torch.tensor([0.02, 1.0, 30.0, 1e-3]), rtol=0.1, atol=0.02)


def test_pools_that_do_not_make_the_bin_are_refused():
    with pytest.raises(InputError, match=r"pools=\(1, 2, 4\) make bins of 8 bp, and the dataset's have 16"):
        build_basenji2018(SMALL, geometry=Geometry(window_bp=64, bin_bp=16), num_tracks=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pools": (2, 4)}, "6 channels, 6 widths, 2 pools; wanted one of each"),
        ({"channels": (), "widths": (), "pools": ()}, "0 channels, 0 widths, 0 pools; wanted one of each"),
        ({"dilated_layers": -2}, "basenji2018: dilated_layers=-2; wanted zero or more"),
        ({"head_channels": 0}, "basenji2018: head_channels=0; wanted a positive number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValidationError, match=message):
        Basenji2018Config(**sizes)
