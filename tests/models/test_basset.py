import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basset import BassetConfig, build_basset
from label_networks import check_local_without_padding, encode, num_weights, random_codes, settle

SMALL = BassetConfig(channels=(5, 6, 7), hidden_units=(4, 3))


def build(window_bp=300):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_basset(SMALL, geometry=geometry, num_tracks=3))


def test_the_number_of_parameters_is_the_published_one():
    # the layers of Kipoi's Basset, whose first dense layer reads 2,000 values; two weights per normalised channel
    convolutions = (4 * 300 * 19 + 300) + (300 * 200 * 11 + 200) + (200 * 200 * 7 + 200) + 2 * (300 + 200 + 200)
    dense = (2000 * 1000 + 1000) + (1000 * 1000 + 1000) + 2 * (1000 + 1000) + (1000 * 164 + 164)
    with torch.device("meta"):
        network = build_basset(BassetConfig(), geometry=Geometry(window_bp=600, bin_bp=600), num_tracks=164)
    assert network.head.hidden[0].in_features == 2000
    assert num_weights(network.local) == convolutions
    assert num_weights(network) == convolutions + dense == 4_135_064


def normed(hidden, norm):
    return F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def test_it_is_the_published_computation():
    network = build()
    codes = random_codes(2, 300)
    hidden = encode(codes)
    for index, pool in ((0, 3), (2, 4), (4, 4)):
        conv, norm, _ = network.local[index]
        hidden = F.max_pool1d(F.relu(normed(F.conv1d(hidden, conv.weight, conv.bias), norm)), pool)
    hidden = hidden.reshape(2, -1)
    for index in (0, 4):
        dense, norm = network.head.hidden[index], network.head.hidden[index + 1]
        hidden = F.relu(normed(F.linear(hidden, dense.weight, dense.bias), norm))
    expected = F.linear(hidden, network.head.tracks.weight, network.head.tracks.bias)
    torch.testing.assert_close(network(codes), expected[:, None, :])


def test_local_moves_with_the_sequence_and_reaches_no_further_than_its_layers():
    check_local_without_padding(build().local, window_bp=300, stride=48)


def test_a_window_too_short_names_the_least():
    least = ((4 + 6) * 4 + 10) * 3 + 18
    assert build(least)(random_codes(1, least)).shape == (1, 1, 3)
    with pytest.raises(InputError, match=f"basset: a window of {least - 1} bp .* wanted at least {least} bp"):
        build(least - 1)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match=r"basset: pools=\(3, 4, 0\); wanted a positive number"):
        BassetConfig(pools=(3, 4, 0))
    with pytest.raises(ValidationError, match="widths"):
        BassetConfig(widths=(3, 4))
