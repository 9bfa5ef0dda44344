from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config, build_basenji2
from cisray.models.reach import check_geometry
from label_networks import encode, num_weights, random_codes, settle

SMALL = Basenji2Config(
    stem_channels=4,
    stem_width=7,
    channels=6,
    tower_width=3,
    dilated_layers=3,
    dilated_channels=3,
    head_channels=5,
)
PUBLISHED = Geometry(window_bp=131_072, bin_bp=128, crop_bins=64)


def build(*, window_bp=64, bin_bp=8, crop_bins=0, num_tracks=2):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    return settle(build_basenji2(SMALL, geometry=geometry, num_tracks=num_tracks))


def test_the_number_of_parameters_is_that_of_the_published_layers():
    # filters of the published parameters: 288, then 339 times 1.1776 six times over; MultiMolecule counts 30.09 million
    widths = [288, *(round(339 * 1.1776**step) for step in range(6))]
    assert widths == [288, 339, 399, 470, 554, 652, 768]
    tower = 4 * 288 * 15 + 2 * 288
    tower += sum(before * after * 5 + 2 * after for before, after in pairwise(widths))
    blocks = 11 * ((768 * 384 * 3 + 2 * 384) + (384 * 768 + 2 * 768))
    hidden = 768 * 1536 + 2 * 1536
    human, mouse = 1536 * 5313 + 5313, 1536 * 1643 + 1643
    with torch.device("meta"):
        one = build_basenji2(Basenji2Config(), geometry=PUBLISHED, num_tracks=5313)
        both = build_basenji2(Basenji2Config(), geometry=PUBLISHED, num_tracks={"human": 5313, "mouse": 1643})
        codes = torch.empty(1, 131_072, dtype=torch.uint8)
        assert one(codes).shape == (1, 896, 5313)
        assert both(codes, head="mouse").shape == (1, 896, 1643)
    assert num_weights(one.local) == tower
    assert num_weights(one) == tower + blocks + hidden + human == 30_088_228
    assert num_weights(both) == num_weights(one) + mouse


def test_dilations_are_rounded_one_from_the_other():
    assert Basenji2Config().dilations == [1, 2, 3, 4, 6, 9, 14, 21, 32, 48, 72]


def gelu(hidden):
    return hidden / (1 + torch.exp(-1.702 * hidden))


def block(hidden, layers, *, width, dilation=1, pool=1):
    _, conv, norm, _, _ = layers
    hidden = F.conv1d(gelu(hidden), conv.weight, padding=dilation * (width // 2), dilation=dilation)
    shape = (1, -1, 1)
    scale = norm.weight.view(shape) / torch.sqrt(norm.running_var.view(shape) + 1e-3)
    hidden = (hidden - norm.running_mean.view(shape)) * scale + norm.bias.view(shape)
    return F.max_pool1d(hidden, pool)


def test_it_is_the_published_computation():
    network = build(crop_bins=1)
    codes = random_codes(2, 64)
    hidden = encode(codes)
    for layers, width in zip(network.local, (7, 3, 3), strict=True):
        hidden = block(hidden, layers, width=width, pool=2)
    for residual, dilation in zip(network.context, (1, 2, 3), strict=True):
        dilated, pointwise = residual.layers
        change = block(block(hidden, dilated, width=3, dilation=dilation), pointwise, width=1)
        hidden = hidden + change
    hidden = gelu(block(hidden[:, :, 1:-1], network.head.shared[0], width=1))
    tracks = network.head.tracks["tracks"]
    expected = torch.log1p(torch.exp(F.conv1d(hidden, tracks.weight, tracks.bias)))
    torch.testing.assert_close(network(codes), expected.mT)


def test_residual_blocks_start_as_the_identity():
    torch.manual_seed(0)
    network = build_basenji2(SMALL, geometry=Geometry(window_bp=64, bin_bp=8), num_tracks=2).eval()
    hidden = torch.randn(1, 6, 8)
    assert torch.equal(network.context(hidden), hidden)


@pytest.mark.parametrize(("window_bp", "bin_bp"), [(20, 1), (350, 50), (21, 7), (512, 128)])
def test_geometry_is_what_the_layers_say(window_bp, bin_bp):
    network = build(window_bp=window_bp, bin_bp=bin_bp, num_tracks=3)
    assert network(random_codes(2, window_bp)).shape == (2, window_bp // bin_bp, 3)
    (reach,) = check_geometry(network)
    assert reach.stride_bp == bin_bp


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 0}, "basenji2: channels=0; wanted a positive number"),
        ({"dilation_rate": 0.5}, r"basenji2: dilated_layers=11, dilation_rate=0\.5; wanted at least 0 and at least 1"),
        ({"head_dropout": 1.0}, r"head_dropout=1\.0; wanted a share"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValidationError, match=message):
        Basenji2Config(**sizes)
