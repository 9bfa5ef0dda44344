"""A sweep through the command line, one that is killed, a population, and trials that fail."""

import csv
import json

import pytest

from cisray.bundle import Predictor, bundle_digest
from cisray.config import load_job
from cisray.errors import InputError
from cisray.files import read_json
from cisray.flows.evaluate import EvaluateJob, evaluate
from cisray.flows.sweep import sweep
from cisray.flows.sweep_job import SweepJob
from cisray.flows.train import train
from killing import pickled, run_and_kill_driver
from whole_program import JOBS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
TINY = [
    "train.model.stem_channels=16",
    "train.model.channels=16",
    "train.model.dilated_layers=1",
    "train.training.epochs=2",
    "train.training.precision=float32",
]
# The rates of three trials: one that learns, one whose loss is soon no number, one that hardly learns.
SEARCH = [
    'search={method="grid"}',
    'space={training.learning_rate={kind="choice",values=[4e-3,1e30,1e-6]}}',
    "train.training.warmup_steps=0",
]
BASELINE = 'baselines.kmer_ridge.model={architecture="kmer_ridge",k=3,contexts_bp=[64]}'


@pytest.fixture(scope="module")
def settings(dataset):
    def make(out, *more):
        return [f"train.dataset={dataset}", f"out={out}", *TINY, *(more or [*SEARCH, BASELINE])]

    return make


@pytest.fixture(scope="module")
def sweep_job(settings):
    def make(out, *more):
        return load_job(JOBS / "sweep.toml", SweepJob, settings(out, *more))

    return make


@pytest.fixture(scope="module")
def swept(ray_here, store, cisray, settings, tmp_path_factory):
    """A sweep that nobody disturbed, and what it printed."""
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    overrides = [part for one in settings(out) for part in ("--set", one)]
    outcome = cisray("sweep", JOBS / "sweep.toml", *overrides)
    assert outcome.code == 0, outcome.err
    return out, outcome, overrides


def results_of(out):
    return read_json(out / "sweep.json", what="sweep")


def comparable(out):
    """What depends neither on how often a sweep was killed, nor on the machine, nor on what stands beside it."""
    results = results_of(out)
    for row in results["trials"]:
        del row["seconds"]
    del results["baselines"]
    return results | {"test": {"winner": results["test"]["winner"]}}


def test_the_best_rate_wins_and_the_others_say_why_not(swept):
    out, *_ = swept
    results = results_of(out)
    best, second, last = results["trials"]
    assert (best["number"], best["status"], best["epochs"]) == (0, "finished", 2)
    assert (second["number"], second["status"], second["epochs"]) == (2, "stopped", 1)
    assert (last["number"], last["status"]) == (1, "failed")
    assert "is nan at step" in last["failure"] or "is inf at step" in last["failure"]
    assert best["value"] > second["value"]
    assert results["winner"]["trial"] == 0
    with (out / "leaderboard.csv").open() as handle:
        table = list(csv.DictReader(handle))
    assert [one["training.learning_rate"] for one in table if one["status"] != "baseline"] == [
        "0.004",
        "1e-06",
        "1e+30",
    ]
    (ridge,) = (one for one in table if one["status"] == "baseline")
    assert (ridge["model"], ridge["model.architecture"]) == ("kmer_ridge", "kmer_ridge")
    assert float(ridge["test.pearson"]) == results["test"]["kmer_ridge"][""]["pearson"]
    assert [bool(one["test.pearson"]) for one in table] == [one["model"] in ("0", "kmer_ridge") for one in table]


def test_the_winner_is_what_train_makes_of_its_settings(swept, sweep_job, tmp_path):
    out, *_ = swept
    job = sweep_job(tmp_path / "any")
    trained = train(job.train_job({"training.learning_rate": 4e-3}, tmp_path / "model", job.runs[0]))
    best = results_of(out)["trials"][0]
    assert best["value"] == trained.metrics["valid.pearson"]
    assert bundle_digest(out / "winner") == bundle_digest(trained.bundle_dir)  # pausing at a rung changes nothing
    assert Predictor(out / "winner").config.channels == 16


def test_winner_and_baseline_are_measured_on_the_test_split_once(swept, dataset, tmp_path):
    out, *_ = swept
    test = results_of(out)["test"]
    assert set(test) == {"winner", "kmer_ridge"}
    assert {path.name for path in (out / "test").iterdir()} == set(test)
    again = evaluate(EvaluateJob(model=str(out / "winner"), dataset=str(dataset), out=str(tmp_path / "evaluation")))
    tracks = json.loads((again / "evaluation.json").read_text())["models"]["model"]["tracks"].values()
    mean = sum(track["pearson"] for track in tracks) / len(tracks)
    assert test["winner"][""]["pearson"] == pytest.approx(mean)
    assert not list(out.rglob("*.unfinished"))


def test_every_trial_is_a_nested_run_and_the_winner_is_registered(swept, store):
    out, outcome, _ = swept
    experiment = store.get_experiment_by_name("tiny-sweep").experiment_id
    runs = {run.info.run_name: run for run in store.search_runs([experiment])}
    parent = runs["sweep sweep"]
    assert parent.info.status == "FINISHED"
    nested = {name for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert nested == {"trial 0", "trial 1", "trial 2"}
    assert [runs[f"trial {number}"].info.status for number in range(3)] == ["FINISHED", "FAILED", "FINISHED"]
    assert "at step" in runs["trial 1"].data.tags["cisray.failure"]
    assert runs["trial 0"].data.params == {"training.learning_rate": "0.004"}
    best = results_of(out)["trials"][0]
    assert runs["trial 0"].data.metrics["best.valid.pearson"] == best["value"]
    assert store.get_metric_history(runs["trial 0"].info.run_id, "valid.pearson")
    assert parent.data.metrics["test.winner.pearson"] == results_of(out)["test"]["winner"][""]["pearson"]
    assert {item.path for item in store.list_artifacts(parent.info.run_id, "sweep")} == {
        "sweep/leaderboard.csv",
        "sweep/report.html",
    }
    (version,) = store.search_model_versions("name = 'tiny-sweep'")
    assert version.tags["bundle.digest"] == bundle_digest(out / "winner")
    assert (out / "report.html") in outcome.paths()
    assert "trial 1 failed: the loss is" in outcome.err or "trial 1 failed: the gradient" in outcome.err


def test_a_finished_sweep_is_not_done_again(swept, cisray, bytes_of):
    out, _, overrides = swept
    before = bytes_of(out)
    again = cisray("sweep", JOBS / "sweep.toml", *overrides)
    assert (again.code, again.out) == (0, f"already swept and registered: {out}\n")
    assert bytes_of(out) == before
    other = cisray("sweep", JOBS / "sweep.toml", *overrides, "--set", "seed=9")
    assert other.code == 2
    assert "was not made by this job" in other.err


def test_a_killed_sweep_ends_with_the_same_trials_and_the_same_winner(swept, sweep_job, tmp_path):
    out, *_ = swept
    job = sweep_job(tmp_path / "sweep", *SEARCH, "baselines={}")
    unfinished = tmp_path / "sweep.unfinished"
    run_and_kill_driver(pickled(sweep, job), lambda: len(list(unfinished.glob("trials/*/rung-*.json"))) >= 2)
    assert not (tmp_path / "sweep").exists()
    kept = {path: path.read_bytes() for path in unfinished.glob("trials/*/rung-*.json")}
    assert len(kept) >= 2
    told = []
    sweep(job, report=told.append)
    for path, receipt in kept.items():
        now = tmp_path / "sweep" / path.relative_to(unfinished)
        assert now.read_bytes() == receipt  # what was done was not done again
    assert comparable(tmp_path / "sweep") == comparable(out)
    assert max(one.done for one in told if one.stage == "trials") == 3


POPULATION = [
    'search={method="population",share=0.5}',
    'space={training.learning_rate={kind="loguniform",low=1e-5,high=1e-2}}',
    'stopping={method="none"}',
    "budget.trials=2",
    "baselines={}",
    "seed=3",
]


def test_in_a_population_the_worse_goes_on_from_the_better(ray_here, sweep_job, tmp_path):
    out = sweep(sweep_job(tmp_path / "sweep", *POPULATION))
    receipts = {
        (number, rung): json.loads((out / f"trials/{number:04d}/rung-{rung:02d}.json").read_text())
        for number in (0, 1)
        for rung in (0, 1)
    }
    first = {number: receipts[number, 0]["curve"][0] for number in (0, 1)}
    better = max(first, key=lambda number: first[number])
    worse = 1 - better
    assert first[better] > first[worse]
    rates = {key: one["settings"]["training.learning_rate"] for key, one in receipts.items()}
    assert rates[better, 1] == rates[better, 0]
    assert rates[worse, 1] != rates[worse, 0]
    assert receipts[worse, 1]["curve"][0] == first[better]  # its first epoch is that of the one it took over from
    made_by = json.loads((out / f"trials/{worse:04d}/run-generation-01/model.json").read_text())["made_by"]
    assert made_by["training"]["learning_rate"] == rates[worse, 1]
    assert {path.name for path in (out / f"trials/{worse:04d}").glob("run-*")} == {"run-generation-01"}


def test_a_network_beside_a_shallow_model_each_with_two_seeds_and_the_winner_trained_anew(
    ray_here, sweep_job, tmp_path
):
    out = tmp_path / "sweep"
    job = sweep_job(
        out,
        "train.model={}",
        "train.training.epochs=1",
        'space={model.architecture={kind="choice",values=["kmer_ridge","basenji"]}}',
        'space.k={setting="model.k",kind="choice",values=[3],when={"model.architecture"=["kmer_ridge"]}}',
        'space.channels={setting="model.channels",kind="choice",values=[16],when={"model.architecture"=["basenji"]}}',
        'search={method="grid"}',
        'stopping={method="none"}',
        "budget={}",
        "repeats.seeds=[3,4]",
        "refit.training.epochs=2",
        "baselines={}",
    )
    sweep(job)
    results = results_of(out)
    rows = {row["settings"]["model.architecture"]: row for row in results["trials"]}
    assert {name: (row["status"], len(row["values"])) for name, row in rows.items()} == {
        "kmer_ridge": ("finished", 2),
        "basenji": ("finished", 2),
    }
    assert rows["kmer_ridge"]["spread"] == pytest.approx(0, abs=1e-6)  # a closed formula has no seed
    assert rows["basenji"]["spread"] > 0
    best = results["trials"][0]
    assert results["winner"]["trained_anew"]
    trained = train(job.refit_job(best["settings"], tmp_path / "model"))
    assert bundle_digest(out / "winner") == bundle_digest(trained.bundle_dir)


def test_a_sweep_of_which_no_trial_comes_to_anything_says_why(ray_here, sweep_job, tmp_path):
    job = sweep_job(tmp_path / "sweep", "train.training.shift_bp=99", "budget.trials=3", "baselines={}")
    with pytest.raises(InputError, match=r"none of 3 trials came to a validation metric \(.*shift_bp=99, but"):
        sweep(job)
