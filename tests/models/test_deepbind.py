import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.deepbind import DeepBindConfig, build_deepbind
from label_networks import encode, num_weights, random_codes, settle


def build(num_tracks=3, window_bp=40, **sizes):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return settle(build_deepbind(DeepBindConfig(**sizes), geometry=geometry, num_tracks=num_tracks))


def test_the_number_of_parameters_is_the_published_one():
    # 16 detectors of 24 bases with a threshold each; a weight per detector (and pool) and a bias; or 32 units between
    detectors = 16 * 24 * 4 + 16
    assert num_weights(build(1, 101)) == detectors + 16 + 1 == 1569
    assert num_weights(build(1, 101, pooling="max_average")) == detectors + 2 * 16 + 1
    assert num_weights(build(1, 101, hidden_units=32)) == detectors + (16 * 32 + 32) + (32 + 1)
    assert num_weights(build(1, 101, pooling="max_average", hidden_units=32)) == detectors + (32 * 32 + 32) + 33


@pytest.mark.parametrize("pooling", ["max", "max_average"])
def test_it_is_the_published_computation(pooling):
    network = build(pooling=pooling, hidden_units=6, motifs=5, motif_width=7)
    codes = random_codes(2, 40)
    conv, hidden, tracks = network.local[1], network.head.hidden[0], network.head.tracks
    padded = torch.full((2, 4, 40 + 2 * 6), 0.25, dtype=torch.float64)  # unknown bases: each as likely as the others
    padded[:, :, 6:-6] = encode(codes)
    matches = F.relu(F.conv1d(padded, conv.weight, conv.bias))  # [B, motifs, 46]
    pooled = matches.max(dim=2).values
    if pooling == "max_average":
        pooled = torch.cat([pooled, matches.mean(dim=2)], dim=1)
    expected = F.linear(F.relu(F.linear(pooled, hidden.weight, hidden.bias)), tracks.weight, tracks.bias)
    torch.testing.assert_close(network(codes), expected[:, None, :])


def test_local_moves_with_the_sequence_and_a_base_moves_only_motifs_over_it():
    network = build(motif_width=7)
    codes = random_codes(1, 40)
    hidden = network.local(encode(codes))
    moved = network.local(encode(codes[:, 1:]))
    torch.testing.assert_close(moved[:, :, 6:], hidden[:, :, 7:], rtol=0, atol=1e-12)  # but for what hangs over the end
    changed = codes.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 4
    positions = (network.local(encode(changed)) != hidden).any(dim=1)[0].nonzero()[:, 0].tolist()
    assert positions
    assert set(positions) <= set(range(20, 27))  # position p reads bases p - 6 to p


@pytest.mark.parametrize("window_bp", [1, 5, 24, 200])
def test_any_window_will_do(window_bp):
    assert build(window_bp=window_bp)(random_codes(2, window_bp)).shape == (2, 1, 3)


def test_several_bins_are_refused():
    with pytest.raises(InputError, match="deepbind labels a window as a whole, but the geometry has 2 bins"):
        build_deepbind(DeepBindConfig(), geometry=Geometry(window_bp=200, bin_bp=100), num_tracks=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"motifs": 0}, "deepbind: motifs=0; wanted a positive number"),
        ({"hidden_units": -1}, "hidden_units=-1; wanted a positive number"),
        ({"dropout": 1.0}, r"dropout=1\.0; wanted a share"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValidationError, match=message):
        DeepBindConfig(**sizes)
