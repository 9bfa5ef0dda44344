import math

import pytest

from cisray.bundle import read_config
from cisray.datasets.card import read_card
from cisray.errors import InputError
from cisray.files import read_json
from cisray.flows.learn import build_for
from cisray.flows.plans import train as module
from cisray.flows.plans.figures import PlanSpec
from cisray.flows.plans.train import count_epochs, plan_train, probe_training
from cisray.training.meter import count_flop

pytestmark = pytest.mark.ray
COUNT_ONLY = PlanSpec(probe_s=0)


def test_steps_are_those_that_the_training_took(bundle, train_job, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "probe_training", None)  # nothing is timed
    job = train_job(tmp_path / "out")
    plan = plan_train(job, COUNT_ONLY)
    history = read_json(bundle / "metrics.json", what="bundle's metrics")["history"]
    assert plan.value("steps") == history[-1]["step"]
    card = read_card(dataset)
    assert plan.value("rows") == 2 * card.counts["train"]
    files = [dataset / file.path for file in card.files if "split=test" not in file.path]
    assert plan.value("read") == 2 * sum(path.stat().st_size for path in files)
    assert {figure.basis for figure in plan.figures} == {"counted"}
    assert not list(tmp_path.iterdir())


def test_arithmetic_is_that_of_learning_and_validating(train_job, dataset, bundle, tmp_path):
    job, card = train_job(tmp_path / "out"), read_card(dataset)
    assert job.model == read_config(bundle)
    per_example = count_flop(build_for(job, {None: card}), card.geometry.window_bp)
    assert per_example > 0
    expected = 2 * per_example * (card.counts["train"] + card.counts["valid"] / 3)
    assert plan_train(job, COUNT_ONLY).value("FLOP") == pytest.approx(expected)


def test_workers_share_the_steps(train_job, dataset, tmp_path):
    job, train = train_job(tmp_path / "out"), read_card(dataset).counts["train"]
    shared = plan_train(job, PlanSpec(probe_s=0, workers=3))
    assert shared.value("workers") == 3
    batch = job.training.batch_size
    steps, largest_part = shared.value("steps"), 2 * train / (3 * batch)
    assert 0.5 * largest_part < steps <= largest_part  # no worker takes more steps than the one with the fewest rows
    assert shared.value("rows") == min(steps * 3 * batch, 2 * train)
    assert steps < math.ceil(2 * train / batch)


def test_checkpoints_are_counted_between_and_at_the_ends_of_epochs(train_job, dataset, tmp_path):
    job, card = train_job(tmp_path / "out"), read_card(dataset)
    epochs = count_epochs(job, {None: card})
    of_an_epoch = epochs.steps // 2
    assert epochs.checkpoints == 2 * math.ceil(of_an_epoch / 8)


def test_a_probe_takes_some_steps_and_says_what_all_will_take(ray_here, train_job, tmp_path, monkeypatch):
    job = train_job(tmp_path / "out")
    timed = probe_training(job, limit_s=2)
    assert timed.steps >= 1
    assert timed.step_s > 0
    assert timed.valid_s > 0
    assert timed.save_s > 0
    assert timed.peak_bytes > 100e6
    monkeypatch.setattr(module, "probe_training", lambda job, *, limit_s: timed)
    plan = plan_train(job, PlanSpec(probe_s=2))
    assert plan.value("time") > plan.value("work") > 0
    (time,) = [figure for figure in plan.figures if figure.name == "time"]
    for part in ("to start the command", "of steps", "of validation", "of checkpoints"):
        assert part in time.why
    assert not list(tmp_path.iterdir())


def test_a_shallow_model_is_not_timed(ridge_job, dataset, tmp_path):
    plan = plan_train(ridge_job(tmp_path / "out"), PlanSpec())
    assert [figure.name for figure in plan.figures] == ["rows", "read"]
    assert plan.value("rows") == read_card(dataset).counts["train"]
    assert "how long kmer_ridge takes, only its library could say" in plan.figures[0].why


def test_settings_that_do_not_fit_the_dataset_are_refused(train_job, tmp_path):
    with pytest.raises(InputError, match=r"no card\.json in it, so this is not a finished dataset"):
        plan_train(train_job(tmp_path / "out", f"dataset={tmp_path}"), COUNT_ONLY)
    with pytest.raises(InputError, match=r"its rows fill no batch for every reader of epoch 0; use fewer readers"):
        plan_train(train_job(tmp_path / "out", "training.batch_size=4096"), PlanSpec(probe_s=0, workers=2))
