import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from cisray.config import check_settings, load_job
from cisray.errors import InputError, MachineError, MachineLostError
from cisray.flows import sweep_trial
from cisray.flows.sweep_job import SweepJob
from cisray.progress import silent
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.schedule import Step
from cisray.sweeps.space import LogUniform
from whole_program import JOBS

pytestmark = pytest.mark.ray
RATE = {"kind": "loguniform", "low": 1e-3, "high": 1e-2}
OUT = Path("any")


def make(**changes):
    values = {
        "name": "study",
        "out": "runs/study",
        "train": {
            "dataset": "data",
            "model": {"architecture": "basenji", "channels": 16},
            "training": {"epochs": 3, "patience": 3},
        },
        "space": {"training.learning_rate": RATE},
    }
    return check_settings(values | changes, SweepJob, source="test")


def test_sections_and_dotted_names_mean_the_same():
    dotted, nested = make(), make(space={"training": {"learning_rate": RATE}})
    assert dotted == nested
    assert dotted.space == {"training.learning_rate": LogUniform(low=1e-3, high=1e-2)}


def test_the_job_that_comes_with_cisray_is_read_and_changed_like_any_other():
    job = load_job(JOBS / "sweep.toml", SweepJob, ["space.training.learning_rate.high=0.5", "train.training.epochs=7"])
    assert job.space["training.learning_rate"].high == 0.5
    assert job.example.training.epochs == 7
    assert job.num_trials == 8


def test_a_trial_changes_what_it_names_and_nothing_else():
    job = make(repeats={"seeds": [4, 5], "datasets": ["a", "b"]})
    assert [run.name for run in job.runs] == ["fold-0-seed-4", "fold-0-seed-5", "fold-1-seed-4", "fold-1-seed-5"]
    trained = job.train_job({"training.learning_rate": 0.5, "model.dilated_layers": 2}, Path("here"), job.runs[3])
    assert (trained.dataset, trained.training.seed, trained.out, trained.name) == ("b", 5, "here", "study")
    assert (trained.training.learning_rate, trained.training.epochs) == (0.5, 3)
    assert (trained.model.channels, trained.model.dilated_layers) == (16, 2)
    assert "learning_rate" not in job.train["training"]


def test_parameters_with_names_of_their_own_set_what_they_say_in_trials_and_in_the_refit():
    def channels(architecture, *values):
        when = {"model.architecture": [architecture]}
        return {"kind": "choice", "values": values, "setting": "model.channels", "when": when}

    job = make(
        train={"dataset": "data"},
        space={
            "model.architecture": {"kind": "choice", "values": ["basset", "danq"]},
            "basset": {"channels": channels("basset", [8, 8, 8], [16, 16, 16])},
            "danq": {"channels": channels("danq", 8, 16)},
        },
        search={"method": "grid"},
        refit={"training": {"epochs": 20}},
    )
    assert job.num_trials == 4
    settings = {"model.architecture": "basset", "basset.channels": [16, 16, 16]}
    trained, refitted = job.train_job(settings, OUT, job.runs[0]), job.refit_job(settings, OUT)
    assert trained.model == refitted.model
    assert (trained.model.architecture, trained.model.channels) == ("basset", (16, 16, 16))
    assert (trained.training.epochs, refitted.training.epochs) == (10, 20)
    assert job.train_job({"model.architecture": "danq", "danq.channels": 8}, OUT, job.runs[0]).model.channels == 8


def test_a_baseline_has_a_model_of_its_own_and_the_rest_of_the_trials():
    job = make(
        baselines={"linear": {"model": {"architecture": "kmer_ridge", "k": 3}, "training": {"seed": 9}}},
        refit={"training": {"epochs": 20}},
    )
    linear = job.baseline_job("linear", OUT, job.runs[0])
    assert (linear.model.architecture, linear.name) == ("kmer_ridge", "study-linear")
    assert (linear.training.seed, linear.training.epochs) == (9, 3)
    assert job.refit_job({"training.learning_rate": 0.1}, OUT).training.epochs == 20


def test_a_space_may_hold_several_architectures():
    job = make(
        train={"dataset": "data"},
        space={
            "model.architecture": {"kind": "choice", "values": ["basenji", "kmer_ridge"]},
            "model.channels": {"kind": "choice", "values": [8], "when": {"model.architecture": ["basenji"]}},
            "model.k": {"kind": "int", "low": 2, "high": 4, "when": {"model.architecture": ["kmer_ridge"]}},
        },
        search={"method": "grid"},
    )
    assert job.num_trials == 4
    assert make(space={"training.learning_rate": RATE}).num_trials == 20


POPULATION = {"search": {"method": "population"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "the space is empty"),
        ({"space": {"training.learning_rat": RATE}}, "unknown key training.learning_rat; did you mean"),
        ({"space": {"training.epochs.deep": RATE}}, "training.epochs.deep: epochs is a value, not a section"),
        ({"space": {"training.learning_rate": RATE | {"low": -1.0}}}, "loguniform: low=-1.0; wanted a positive number"),
        ({"space": {"training.learning_rate": RATE}, "search": {"method": "grid"}}, "give it points = N"),
        ({"space": {"training.batch_size": {"kind": "int", "low": -3, "high": -1}}}, "batch_size=-[123]; wanted a pos"),
        ({"train": {"dataset": "data", "name": "mine"}}, r"train: name belongs to the sweep itself; write it outside"),
        ({"train": {"model": {"architecture": "basenji"}}}, "a job learns from `dataset`, or from several"),
        ({"width": 0}, "at_once=None, width=0; wanted at least 1"),
        ({"at_once": 0}, "at_once=0, width=8; wanted at least 1"),
        ({"budget": {"trials": 0}}, "budget: trials=0; wanted a positive number"),
        ({"budget": {"hours": -1.0}}, "budget: hours=-1.0; wanted a positive number"),
        ({"repeats": {"seeds": [1, 1]}}, r"repeats: seeds=\[1, 1\]; wanted each once"),
        ({"baselines": {"linear": {"training": {}}}}, r"linear has no model; give it \[baselines.linear.model\]"),
        ({"baselines": {"linear": {"model": {"architecture": "kmer_ridge", "q": 1}}}}, "unknown key model.q"),
        ({"baselines": {"winner": {"model": {"architecture": "kmer_ridge"}}}}, "for its folder; winner is taken"),
        ({"baselines": {"../x": {"model": {"architecture": "kmer_ridge"}}}}, r"baselines: '../x': wanted a name of"),
        ({"refit": {"training": {"epoch": 30}}}, "unknown key training.epoch; did you mean training.epochs"),
        ({"budget": {"hours": math.inf}}, "budget.hours = inf; wanted a finite number"),
        ({"seed": -1}, "seed"),
        (POPULATION | {"stopping": {"method": "asha"}}, "a population goes with neither stopping, repeats, refit"),
        (POPULATION | {"repeats": {"seeds": [1, 2]}}, "a population goes with neither stopping, repeats, refit"),
        (POPULATION | {"budget": {"hours": 2.0}}, "nor a budget of examples or hours"),
        (
            POPULATION | {"space": {"model.channels": {"kind": "int", "low": 8, "high": 16}}},
            "model.channels cannot change while a network learns",
        ),
        (
            POPULATION | {"train": {"dataset": "d", "model": {"architecture": "basenji"}, "training": {"epochs": 9}}},
            "training.patience=5 may end a trial of a population before the others; set it to training.epochs, 9",
        ),
    ],
)
def test_what_makes_no_sweep_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_trial_whose_machines_die_again_and_again_has_failed(tmp_path, monkeypatch):
    def lose(*_):
        raise MachineLostError("its node has died")

    monkeypatch.setattr(sweep_trial, "_train", lose)
    folder = SweepFolder(tmp_path)
    folder.begin(0, {})
    trials = sweep_trial.Trials(SimpleNamespace(runs=["run"]), folder, None, 100)
    step = Step(0, 0, 3, {}, 0)
    for _ in range(sweep_trial.MOST_LOSSES - 1):
        with pytest.raises(MachineLostError):
            sweep_trial.take_step(trials, step, silent)
    assert sweep_trial.take_step(trials, step, silent).failure == "its node has died"
    monkeypatch.setattr(sweep_trial, "_train", lambda *_: (_ for _ in ()).throw(MachineError("no room on the disk")))
    with pytest.raises(MachineError, match="no room"):
        sweep_trial.take_step(trials, step, silent)
