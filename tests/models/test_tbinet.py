import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.tbinet import PositionAttention, TBiNetConfig, build_tbinet
from label_networks import check_local_without_padding, encode, num_weights, random_codes, settle

SMALL = TBiNetConfig(channels=3, lstm_units=2, attention_units=5, hidden_units=4)
PUBLISHED = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)


def build(window_bp=200):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_tbinet(SMALL, geometry=geometry, num_tracks=3))


def test_the_number_of_parameters_is_that_of_the_authors_layers():
    # the layers of the authors' Keras model: 64 kernels of each width, 75 positions, 690 transcription factors
    convolutions = sum(4 * 64 * width + 64 for width in (8, 12, 16, 20, 24))
    lstm = 2 * 4 * 320 * (5 * 64 + 320 + 1)
    attention = 640 * 100 + 100
    dense = (75 * 640 * 695 + 695) + (695 * 690 + 690)
    with torch.device("meta"):
        network = build_tbinet(TBiNetConfig(), geometry=PUBLISHED, num_tracks=690)
    assert num_weights(network.local) == convolutions
    assert num_weights(network.context) == lstm + attention
    assert num_weights(network) == convolutions + lstm + attention + dense == 35_566_795


def test_local_is_every_width_beside_the_others_cut_to_the_shortest():
    network = build(209)  # 209 - 7 bases fill 15 pools of 13, 209 - 23 only 14
    hidden = network.local(encode(random_codes(2, 209)))
    assert hidden.shape == (2, 15, 14)
    for index, branch in enumerate(network.local[0].branches):
        conv = branch[0]
        alone = F.max_pool1d(F.relu(F.conv1d(encode(random_codes(2, 209)), conv.weight, conv.bias)), 13)
        torch.testing.assert_close(hidden[:, 3 * index : 3 * index + 3], alone[:, :, :14])


def test_local_moves_with_the_sequence_and_reaches_no_further_than_its_widest():
    check_local_without_padding(build().local, window_bp=200, stride=13)


def test_attention_is_the_mean_of_several_over_the_positions():
    attention = PositionAttention(4, 3).double()
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    scores = torch.einsum("bcp,uc->bup", hidden, attention.scores.weight) + attention.scores.bias[:, None]
    weights = (scores.exp() / scores.exp().sum(dim=2, keepdim=True)).mean(dim=1)
    torch.testing.assert_close(attention(hidden), hidden * weights[:, None])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_window_too_short_names_the_least():
    assert build(13 + 23)(random_codes(1, 36)).shape == (1, 1, 3)
    with pytest.raises(InputError, match=r"tbinet: a window of 35 bp .* wanted at least 36 bp"):
        build(35)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match=r"tbinet: widths=\(8, 0\); wanted a positive number"):
        TBiNetConfig(widths=(8, 0))
