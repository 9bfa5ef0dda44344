import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.danq import DanQConfig, build_danq
from label_networks import check_local_without_padding, encode, num_weights, random_codes, settle

SMALL = DanQConfig(channels=5, lstm_units=3, hidden_units=4)
PUBLISHED = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)


def build(window_bp=200):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_danq(SMALL, geometry=geometry, num_tracks=3))


def test_the_number_of_parameters_is_the_published_one():
    # DanQ's paper counts 46,926,479; Keras's LSTM has four gates per unit, each with one bias
    convolution = 4 * 320 * 26 + 320
    lstm = 2 * 4 * 320 * (320 + 320 + 1)
    dense = (75 * 640 * 925 + 925) + (925 * 919 + 919)
    with torch.device("meta"):
        network = build_danq(DanQConfig(), geometry=PUBLISHED, num_tracks=919)
    assert num_weights(network.local) == convolution
    assert num_weights(network.context) == lstm
    assert num_weights(network) == convolution + lstm + dense == 46_926_479


def lstm_by_hand(steps, input_weights, hidden_weights, *, units):
    """Run one direction over steps [P, C]: gates in torch's order, the bias in the last column."""
    state = cell = torch.zeros(units, dtype=torch.float64)
    states = []
    for step in steps:
        gates = input_weights[:, :-1] @ step + input_weights[:, -1] + hidden_weights @ state
        enter, forget, fresh, leave = gates.split(units)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(fresh)
        state = torch.sigmoid(leave) * torch.tanh(cell)
        states.append(state)
    return torch.stack(states)


def test_it_is_the_published_computation():
    network = build()
    codes = random_codes(1, 200)
    conv, lstm = network.local[0][0], network.context[0].lstm
    steps = F.max_pool1d(F.relu(F.conv1d(encode(codes), conv.weight, conv.bias)), 13)[0].T  # [13, 5]
    there = lstm_by_hand(steps, lstm.weight_ih_l0, lstm.weight_hh_l0, units=3)
    back = lstm_by_hand(steps.flip(0), lstm.weight_ih_l0_reverse, lstm.weight_hh_l0_reverse, units=3).flip(0)
    hidden = torch.cat([there, back], dim=1).T.reshape(-1)
    dense, tracks = network.head.hidden[0], network.head.tracks
    expected = F.linear(F.relu(F.linear(hidden, dense.weight, dense.bias)), tracks.weight, tracks.bias)
    torch.testing.assert_close(network(codes)[0, 0], expected)


def test_local_moves_with_the_sequence_and_context_sees_all():
    network = build()
    check_local_without_padding(network.local, window_bp=200, stride=13)
    hidden = torch.randn(1, 5, 13, dtype=torch.float64)
    changed = hidden.clone()
    changed[0, :, 6] += 1
    assert (network.context(hidden) != network.context(changed)).any(dim=1).all()


def test_a_window_too_short_names_the_least():
    assert build(13 + 25)(random_codes(1, 38)).shape == (1, 1, 3)
    with pytest.raises(InputError, match=r"danq: a window of 37 bp .* wanted at least 38 bp"):
        build(37)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="danq: lstm_units=0; wanted a positive number"):
        DanQConfig(lstm_units=0)
    with pytest.raises(ValidationError, match=r"lstm_dropout=-0\.5; wanted a share"):
        DanQConfig(lstm_dropout=-0.5)
