import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.expecto import ExPectoConfig, build_expecto
from label_networks import check_local_without_padding, encode, num_weights, random_codes, settle

SMALL = ExPectoConfig(channels=(5, 6, 7), hidden_units=4)


def build(window_bp=400):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_expecto(SMALL, geometry=geometry, num_tracks=3))


def test_the_number_of_parameters_is_that_of_the_authors_layers():
    # the layers of the authors' Beluga, whose dense layer reads 67,840 values
    pairs = [(4, 320), (320, 320), (320, 480), (480, 480), (480, 640), (640, 640)]
    convolutions = sum(before * after * 8 + after for before, after in pairs)
    dense = (67_840 * 2003 + 2003) + (2003 * 2002 + 2002)
    with torch.device("meta"):
        network = build_expecto(ExPectoConfig(), geometry=Geometry(window_bp=2000, bin_bp=2000), num_tracks=2002)
    assert network.head.hidden[0].in_features == 67_840
    assert num_weights(network.local) == convolutions
    assert num_weights(network) == convolutions + dense == 149_536_251


def test_it_is_the_published_computation():
    network = build()
    codes = random_codes(2, 400)
    convs = [module for module in network.local.modules() if isinstance(module, nn.Conv1d)]
    hidden = encode(codes)
    for index, conv in enumerate(convs):
        hidden = F.relu(F.conv1d(hidden, conv.weight, conv.bias))
        if index in (1, 3):
            hidden = F.max_pool1d(hidden, 4)
    dense, tracks = network.head.hidden[0], network.head.tracks
    hidden = F.relu(F.linear(hidden.reshape(2, -1), dense.weight, dense.bias))
    torch.testing.assert_close(network(codes)[:, 0], F.linear(hidden, tracks.weight, tracks.bias))


def test_local_moves_with_the_sequence_and_reaches_no_further_than_its_layers():
    check_local_without_padding(build().local, window_bp=400, stride=16)


def test_a_window_too_short_names_the_least():
    least = ((1 + 14) * 4 + 14) * 4 + 14
    assert build(least)(random_codes(1, least)).shape == (1, 1, 3)
    with pytest.raises(InputError, match=f"expecto: a window of {least - 1} bp .* wanted at least {least} bp"):
        build(least - 1)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match=r"expecto: dense_dropout=2\.0; wanted a share"):
        ExPectoConfig(dense_dropout=2.0)
