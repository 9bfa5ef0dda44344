"""The end of a sweep: the winner's bundle, baselines trained as the trials were, the one reading of the test split."""

import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray.train

from cisray.datasets.card import read_card
from cisray.datasets.predictions import EVALUATION_NAME
from cisray.errors import InputError, MachineError
from cisray.files import folder_written_whole, read_json
from cisray.flows.evaluate import EvaluateJob, evaluate
from cisray.flows.sweep_job import SweepJob
from cisray.flows.sweep_trial import Trials, curve_of, reason_of
from cisray.flows.train import train
from cisray.progress import Report
from cisray.sweeps.leaderboard import Row, spread_of
from cisray.sweeps.schedule import defined

TEST_DIR = "test"


class Baseline(NamedTuple):
    """What a baseline came to on the validation split."""

    architecture: str
    value: float | None
    """Best validation metric, mean over runs."""
    spread: float | None
    """Standard deviation over runs; None for a single one."""
    values: list[float | None]
    """Of each run."""
    failure: str
    """Why it failed; empty where it did not."""


def make_winner(trials: Trials, row: Row, *, last_rung: int, report: Report) -> Path:
    """Return the winner's bundle: what its first run made, or trained anew where the job or its end says so.

    Args:
        trials: what they share.
        row: what the winner came to.
        last_rung: that it came to.
        report: told what a training does.
    """
    out = trials.folder.path / "winner"
    if is_trained_anew(trials.job, row):
        return train(trials.job.refit_job(row.settings, out), start_dir=trials.start_dir, report=report).bundle_dir
    if not out.exists():
        _copy_bundle(trials.run_dir(row.number, trials.job.runs[0], rung=last_rung), out)
    return out


def is_trained_anew(job: SweepJob, row: Row) -> bool:
    """Say whether a winner's bundle is not what the search trained: the job says so, or it was given up."""
    return bool(job.refit) or row.status != "finished"


def _copy_bundle(source: Path, target: Path) -> None:
    with folder_written_whole(target) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)


def measure_baseline(trials: Trials, name: str, *, report: Report) -> Baseline:
    """Train a baseline once per run of a trial."""
    jobs = [trials.job.baseline_job(name, baseline_dir(trials, name, run.name), run) for run in trials.job.runs]
    architecture = jobs[0].model.architecture
    try:
        trained = [train(job, start_dir=trials.start_dir if job.start.model else None, report=report) for job in jobs]
    except MachineError:
        raise
    except (InputError, ray.train.TrainingFailedError) as error:
        return Baseline(architecture, None, None, [], reason_of(error))
    values = [curve_of(one.metrics)[-1] for one in trained]
    return Baseline(
        architecture=architecture,
        value=defined(statistics.fmean(values)),
        spread=spread_of(values),
        values=[defined(value) for value in values],
        failure="",
    )


def baseline_dir(trials: Trials, name: str, run_name: str) -> Path:
    """Return the folder of the bundle of one of a baseline's runs."""
    return trials.folder.path / "baselines" / name / run_name


def measure_on_test(trials: Trials, bundles: Mapping[str, Path], *, report: Report) -> dict[str, Any]:
    """Evaluate bundles on the test split: the mean over tracks of every metric, by name, and by head where there are.

    Each reads the strands that it learned to read. Empty where the dataset has no test split.
    """
    example = trials.job.example
    found: dict[str, Any] = {}
    for name, bundle_dir in bundles.items():
        for head, dataset in example.sources.items():
            if not read_card(Path(dataset)).counts["test"]:
                continue
            place = trials.folder.path / TEST_DIR / name
            folder = evaluate(
                EvaluateJob(
                    model=str(bundle_dir),
                    dataset=dataset,
                    out=str(place / head if head else place),
                    head=head,
                    use_gpu=example.workers.use_gpu,
                    cluster=trials.job.cluster,
                ),
                report=report,
            )
            found.setdefault(name, {})[head or ""] = _means(folder)
    return found


def _means(evaluation_dir: Path) -> dict[str, float | None]:
    """Average an evaluation's metrics over the tracks that have them."""
    results = read_json(evaluation_dir / EVALUATION_NAME, what="evaluation")
    of_tracks = results["models"]["model"]["tracks"].values()
    means = {}
    for metric in results["definitions"]:
        values = [one[metric] for one in of_tracks if one[metric] is not None]
        means[metric] = statistics.fmean(values) if values else None
    return means
