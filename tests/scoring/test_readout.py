import numpy as np
import pytest
import torch

from cisray.errors import InputError
from cisray.scoring.readout import Readout, with_tracks
from engine_cases import model_of


@pytest.mark.parametrize("name", ["enformer", "basenji2", "basenji2018", "bpnet", "basset"])
@torch.no_grad()
def test_a_head_of_some_tracks_predicts_what_the_whole_head_does_for_them(name):
    model = model_of(name)
    network = model.network
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (2, model.geometry.window_bp), np.uint8))
    hidden = network.context(network.embed(codes))
    cut = with_tracks(network.head, torch.tensor([0, 2]))
    whole, some = network.head(hidden), cut(hidden)
    if name == "bpnet":
        torch.testing.assert_close(some.profile, whole.profile[:, :, [0, 2]])
        torch.testing.assert_close(some.log_counts, whole.log_counts[:, [0, 2]])
    else:
        torch.testing.assert_close(some, whole[:, [0, 2]])
    assert network.head(hidden)[0].shape == whole[0].shape  # the network keeps its own


def test_heads_that_cannot_be_cut_are_left_whole():
    assert with_tracks(torch.nn.Identity(), torch.tensor([0])) is None
    model = model_of("kmer_ridge")
    readout = Readout(model, [2], both=False)
    assert readout.head is None
    values = torch.arange(36.0, dtype=torch.float64).reshape(1, 12, 3)
    assert readout(values, reverse=False)[0, :, 0].tolist() == list(range(2, 36, 3))


def test_the_other_strand_comes_back_with_its_partners():
    readout = Readout(model_of("kmer_ridge"), [1], both=True)
    values = torch.arange(36.0, dtype=torch.float64).reshape(1, 12, 3)
    # track 1 on the other strand is track 0, its bins backwards
    assert readout(values, reverse=True)[0, :, 0].tolist() == list(range(33, -1, -3))


@pytest.mark.parametrize(
    ("tracks", "swap", "message"),
    [
        ([3], None, r"tracks \[3\] of a model with 3; wanted one or more, from 0 to 2"),
        ([], None, r"tracks \[\] of a model with 3; wanted one or more"),
        (None, np.array([1, 1, 2]), r"swap=\[1, 1, 2\] does not pair 3 tracks; wanted one partner per track"),
    ],
)
def test_tracks_that_are_not_there_are_told(tracks, swap, message):
    with pytest.raises(InputError, match=message):
        Readout(model_of("kmer_ridge")._replace(swap=swap), tracks, both=True)


def test_predictions_of_another_shape_are_told():
    readout = Readout(model_of("kmer_ridge"), None, both=False)
    with pytest.raises(InputError, match=r"the model gave predictions \(1, 12, 4\); wanted \[windows, 12, 3\]"):
        readout(torch.zeros(1, 12, 4), reverse=False)
