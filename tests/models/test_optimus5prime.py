import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.optimus5prime import Optimus5PrimeConfig, build_optimus5prime
from cisray.models.reach import reach_of
from label_networks import encode, num_weights, random_codes, settle

WHOLE = Geometry(window_bp=50, bin_bp=50)


def build(**sizes):
    torch.manual_seed(0)
    return settle(build_optimus5prime(Optimus5PrimeConfig(**sizes), geometry=WHOLE, num_tracks=2))


def test_the_number_of_parameters_is_the_published_one():
    convolutions = (4 * 120 * 8 + 120) + 2 * (120 * 120 * 8 + 120)
    network = build_optimus5prime(Optimus5PrimeConfig(), geometry=WHOLE, num_tracks=1)
    assert num_weights(network) == convolutions + (50 * 120 * 40 + 40) + (40 + 1) == 474_681


def test_it_is_the_published_computation():
    network = build(channels=5, hidden_units=6)
    codes = random_codes(3, 50)
    hidden = encode(codes)
    for conv in list(network.local)[1::3]:
        hidden = F.relu(F.conv1d(F.pad(hidden, (3, 4)), conv.weight, conv.bias))  # of an even width more to the right
    dense, tracks = network.head.hidden[0], network.head.tracks
    expected = F.linear(F.relu(F.linear(hidden.reshape(3, -1), dense.weight, dense.bias)), tracks.weight, tracks.bias)
    torch.testing.assert_close(network(codes), expected[:, None, :])


def test_a_base_moves_what_its_layers_see():
    network = build(layers=2, channels=4)
    (reach,) = reach_of(network.local)
    assert (reach.stride_bp, reach.start_bp, reach.end_bp) == (1, -6, 9)
    codes = random_codes(1, 50)
    changed = codes.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 4
    moved = (network.local(encode(changed)) != network.local(encode(codes))).any(dim=1)[0].nonzero()[:, 0].tolist()
    assert moved
    assert set(moved) <= set(range(12, 27))


def test_what_it_cannot_read_is_refused():
    with pytest.raises(InputError, match="optimus5prime labels a window as a whole"):
        build_optimus5prime(Optimus5PrimeConfig(), geometry=Geometry(window_bp=60, bin_bp=20), num_tracks=1)
    with pytest.raises(ValidationError, match="layers"):
        Optimus5PrimeConfig(layers=0)
