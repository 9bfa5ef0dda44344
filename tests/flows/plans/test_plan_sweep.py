import pytest

from cisray.config import load_job
from cisray.datasets.card import read_card
from cisray.flows.plans import sweep as module
from cisray.flows.plans.figures import TRAINER_S, PlanSpec
from cisray.flows.plans.sweep import plan_sweep, play_schedule
from cisray.flows.plans.train import TimedTraining
from cisray.flows.sweep_job import SweepJob
from whole_program import JOBS

pytestmark = pytest.mark.ray
TINY = ["train.model.stem_channels=16", "train.model.dilated_layers=1", "train.training.epochs=9", "baselines={}"]
RATES = 'space={training.learning_rate={kind="loguniform",low=1e-4,high=1e-2}}'
CHANNELS = 'space={model.channels={kind="choice",values=[8,64]}}'
HALVING = 'stopping={method="asha",first_epochs=1,factor=3}'
RANDOM, GRID, NONE = 'search={method="random"}', 'search={method="grid"}', 'stopping={method="none"}'
TIMED = TimedTraining(
    ray_s=1.0,
    opening_s=2.0,
    reading_s=0.5,
    first_s=1.0,
    step_s=0.1,
    valid_s=0.0,
    save_s=0.0,
    steps=5,
    peak_bytes=10**9,
)


@pytest.fixture
def sweep_job(dataset, tmp_path):
    def make(*overrides):
        settings = [f"train.dataset={dataset}", f"out={tmp_path / 'out'}", *TINY, *overrides]
        return load_job(JOBS / "sweep.toml", SweepJob, settings)

    return make


def test_without_stopping_every_trial_comes_to_its_end(sweep_job):
    steps = play_schedule(sweep_job(RANDOM, NONE, RATES, "budget.trials=7"), 100)
    assert [(step.number, step.epoch) for step in steps] == [(number, 9) for number in range(7)]


def test_of_those_at_a_rung_about_one_in_three_goes_on(sweep_job):
    steps = play_schedule(sweep_job(RANDOM, HALVING, RATES, "budget.trials=200"), 100)
    came = {epoch: len({step.number for step in steps if step.epoch == epoch}) for epoch in (1, 3, 9)}
    assert came[1] == 200
    assert 50 <= came[3] <= 90  # drawn: 67 in the mean, plus or minus 7
    assert came[3] / 6 <= came[9] <= came[3] / 1.5


def test_a_population_learns_to_the_end_together(sweep_job):
    search = 'search={method="population",generation_epochs=3}'
    steps = play_schedule(sweep_job(search, NONE, RATES, "budget.trials=4", "train.training.patience=9"), 100)
    assert [step.epoch for step in steps if step.number == 0] == [3, 6, 9]
    assert len(steps) == 12


def test_a_sweep_is_the_sum_of_its_trials(sweep_job, dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "probe_training", lambda job, *, limit_s: TIMED)
    job = sweep_job(GRID, NONE, 'space={training.learning_rate={kind="choice",values=[1e-3,2e-3,3e-3]}}')
    plan = plan_sweep(job, PlanSpec(workers=2))
    assert (plan.value("trials"), plan.value("epochs"), plan.value("workers")) == (3, 27, 2)
    batch, train = job.example.training.batch_size, read_card(dataset).counts["train"]
    trial_s = 9 * (train / batch * TIMED.step_s + TIMED.reading_s) + TRAINER_S
    assert plan.value("work") == pytest.approx(3 * trial_s)
    (time,) = [figure for figure in plan.figures if figure.name == "time"]
    assert f"{2 * trial_s:,.3g} s of trials, 2 at once" in time.why  # one of them waits for the others
    assert time.basis == "assumed"
    assert not list(tmp_path.iterdir())


def test_a_larger_network_takes_as_much_more_as_its_arithmetic(sweep_job, monkeypatch):
    monkeypatch.setattr(module, "probe_training", lambda job, *, limit_s: TIMED)
    both = plan_sweep(sweep_job(GRID, NONE, CHANNELS), PlanSpec())
    small = plan_sweep(sweep_job(GRID, NONE, CHANNELS.replace(",64", "")), PlanSpec())
    large = plan_sweep(sweep_job(GRID, NONE, CHANNELS.replace("8,", "")), PlanSpec())
    assert both.value("FLOP") == pytest.approx(small.value("FLOP") + large.value("FLOP"))
    assert small.value("FLOP") < large.value("FLOP")


def test_shallow_trials_are_counted_and_not_timed(sweep_job, monkeypatch):
    monkeypatch.setattr(module, "probe_training", None)
    space = 'space={model.k={kind="choice",values=[2,3]}}'
    ridge = 'train.model={architecture="kmer_ridge",contexts_bp=[64]}'
    plan = plan_sweep(sweep_job(GRID, NONE, space, ridge), PlanSpec())
    assert [figure.name for figure in plan.figures] == ["trials", "epochs", "workers"]
    assert "2 of them shallow models" in plan.figures[0].why
