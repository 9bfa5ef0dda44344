import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from cisray.errors import InputError
from cisray.training.checkpoints import read_learner, write_learner
from cisray.training.loop import Learned, Learner
from cisray.training.spec import TrainSpec


def make_learner(seed=0, **settings):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv1d(4, 3, 5), nn.BatchNorm1d(3), nn.Conv1d(3, 1, 1))
    return Learner(network, spec=TrainSpec(**settings))


def moved(learner, steps=3):
    for _ in range(steps):
        learner.optimizer.zero_grad()
        learner.network(torch.randn(2, 4, 9)).square().mean().backward()
        learner.optimizer.step()
    return learner


def test_all_of_a_learner_comes_back(tmp_path):
    learner = moved(make_learner())
    row = {"epoch": 0, "valid.pearson": 0.1, "valid.pearson_per_track": [0.1, 0.2]}
    learner.learned = Learned(epoch=1, step_in_epoch=4, step=9, best_metric=0.1, best_epoch=0, history=[row])
    learner.best_weights = {name: weight + 1 for name, weight in learner.network.state_dict().items()}
    write_learner(tmp_path / "a/b", learner)
    again = make_learner(seed=1)
    read_learner(tmp_path / "a/b", again)
    assert dataclasses.asdict(again.learned) == dataclasses.asdict(learner.learned)
    for one, other in (
        (again.network.state_dict(), learner.network.state_dict()),
        (again.best_weights, learner.best_weights),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    # the optimizer goes on as it would have
    for each in (learner, again):
        torch.manual_seed(5)
        moved(each, steps=2)
    for one, other in zip(again.network.parameters(), learner.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_before_the_first_epoch_ends(tmp_path):
    learner = moved(make_learner())
    learner.learned.step = learner.learned.step_in_epoch = 3
    write_learner(tmp_path, learner)
    again = make_learner(seed=1)
    read_learner(tmp_path, again)
    assert again.learned == learner.learned
    assert again.learned.best_metric == -math.inf
    assert again.best_weights == {}


def test_metrics_that_are_no_numbers_come_back(tmp_path):
    learner = moved(make_learner())
    row = {"epoch": 0, "valid.pearson": math.nan, "valid.pearson_per_track": [math.nan, 0.25]}
    learner.learned = Learned(epoch=1, step=3, history=[row])
    learner.keep_best(math.nan)
    write_learner(tmp_path, learner)
    again = make_learner(seed=1)
    read_learner(tmp_path, again)
    (found,) = again.learned.history
    assert math.isnan(found["valid.pearson"])
    assert math.isnan(found["valid.pearson_per_track"][0])
    assert found["valid.pearson_per_track"][1] == 0.25
    assert again.learned.best_metric == learner.learned.best_metric
    assert again.learned.best_epoch == learner.learned.best_epoch


def test_nothing_but_tensors_and_json_is_written(tmp_path):
    write_learner(tmp_path, moved(make_learner()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "learned.json",
        "optimizer.safetensors",
        "weights.safetensors",
    ]


def test_a_checkpoint_without_its_progress_is_refused(tmp_path):
    write_learner(tmp_path, moved(make_learner()))
    (tmp_path / "learned.json").write_text("{")
    with pytest.raises(InputError, match=r"learned\.json: not a readable checkpoint"):
        read_learner(tmp_path, make_learner())


def test_the_running_mean_comes_back(tmp_path):
    learner = moved(make_learner(ema_decay=0.5))
    for _ in range(2):
        learner.average.update_parameters(moved(learner).network)
    write_learner(tmp_path / "saved", learner)
    assert (tmp_path / "saved/average.safetensors").exists()
    again = make_learner(seed=1, ema_decay=0.5)
    read_learner(tmp_path / "saved", again)
    for each in (learner, again):
        with torch.no_grad():
            each.network[0].weight.fill_(1.0)
        each.average.update_parameters(each.network)
    ours, theirs = again.evaluated.state_dict(), learner.evaluated.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_comes_back(tmp_path, momentum):
    learner = moved(make_learner(optimizer="sgd", momentum=momentum))
    write_learner(tmp_path / "saved", learner)
    again = make_learner(seed=1, optimizer="sgd", momentum=momentum)
    read_learner(tmp_path / "saved", again)
    for each in (learner, again):
        torch.manual_seed(5)
        moved(each, steps=2)
    for one, other in zip(again.network.parameters(), learner.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_learner(tmp_path / "saved", moved(make_learner()))
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    monkeypatch.setattr(json, "dumps", lambda value: 1 / 0)
    learner = moved(make_learner(seed=2))
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        write_learner(tmp_path / "saved", learner)
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
