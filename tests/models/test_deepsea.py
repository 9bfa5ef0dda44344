import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.deepsea import DeepSEAConfig, build_deepsea
from label_networks import check_local_without_padding, encode, num_weights, random_codes, settle

SMALL = DeepSEAConfig(channels=(5, 6, 7), hidden_units=4)
PUBLISHED = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)


def build(window_bp=300):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_deepsea(SMALL, geometry=geometry, num_tracks=3))


def test_the_number_of_parameters_is_the_published_one():
    # DanQ's paper counts 52,843,119; and so do the layers of Kipoi's DeepSEA, whose dense layer reads 50,880 values
    convolutions = (4 * 320 * 8 + 320) + (320 * 480 * 8 + 480) + (480 * 960 * 8 + 960)
    positions = ((1000 - 7) // 4 - 7) // 4 - 7
    assert positions * 960 == 50_880
    dense = (50_880 * 925 + 925) + (925 * 919 + 919)
    with torch.device("meta"):
        network = build_deepsea(DeepSEAConfig(), geometry=PUBLISHED, num_tracks=919)
    assert num_weights(network.local) == convolutions
    assert num_weights(network) == convolutions + dense == 52_843_119


def test_it_is_the_published_computation():
    network = build()
    codes = random_codes(2, 300)
    first, second, third = (network.local[index][0] for index in (0, 3, 6))
    hidden = F.max_pool1d(F.relu(F.conv1d(encode(codes), first.weight, first.bias)), 4)
    hidden = F.max_pool1d(F.relu(F.conv1d(hidden, second.weight, second.bias)), 4)
    hidden = F.relu(F.conv1d(hidden, third.weight, third.bias)).reshape(2, -1)
    dense, tracks = network.head.hidden[0], network.head.tracks
    expected = F.linear(F.relu(F.linear(hidden, dense.weight, dense.bias)), tracks.weight, tracks.bias)
    torch.testing.assert_close(network(codes), expected[:, None, :])


def test_local_moves_with_the_sequence_and_reaches_no_further_than_its_layers():
    check_local_without_padding(build().local, window_bp=300, stride=16)


def test_a_window_too_short_names_the_least():
    # one position of the last convolution is 8 of the second pool, 32 of the second convolution, and so on
    least = ((1 + 7) * 4 + 7) * 4 + 7
    assert build(least)(random_codes(1, least)).shape == (1, 1, 3)
    with pytest.raises(InputError, match=f"deepsea: a window of {least - 1} bp .* wanted at least {least} bp"):
        build(least - 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": (3, 0, 3)}, r"deepsea: channels=\(3, 0, 3\); wanted a positive number"),
        ({"dropout": (0.1, 0.1, 1.5)}, r"dropout=\(0\.1, 0\.1, 1\.5\); wanted a share"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValidationError, match=message):
        DeepSEAConfig(**sizes)
