"""Take a trial to its next rung: its trainings one after another, and what came of them."""

import math
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray.train

from cisray.errors import InputError, MachineError, MachineLostError
from cisray.flows.sweep_job import Run, SweepJob
from cisray.flows.train import Trained, take_over, train
from cisray.flows.train_job import TrainJob
from cisray.progress import Progress, Report
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.population import Population
from cisray.sweeps.schedule import Result, Step, best_so_far, mean_curve

MOST_LOSSES = 3
"""Times that a sweep may end because a trial's machines died; after the last, that is taken for the trial's doing."""


class Trials(NamedTuple):
    """What all trials of a sweep share."""

    job: SweepJob
    folder: SweepFolder
    start_dir: Path | None
    epoch_examples: int
    """That an epoch reads."""

    def run_dir(self, number: int, run: Run, *, rung: int) -> Path:
        """Return the folder of the bundle of one of a trial's runs; only of a population does it depend on the rung."""
        generation = rung if isinstance(self.job.search, Population) else None
        return self.folder.run(number, run.name, generation=generation)


def take_step(trials: Trials, step: Step, report: Report) -> Result:
    """Train a trial to its next rung; a trial that cannot be trained is a result too, with the reason."""
    started = time.monotonic()
    try:
        trained = [_train(trials, step, run, report) for run in trials.job.runs]
    except MachineError as error:  # which says nothing of the trial: the sweep ends, and goes on where there is room
        is_lost = isinstance(error, MachineLostError)
        if not is_lost or trials.folder.count_loss(step.number) < MOST_LOSSES:
            raise
        return _failed(trials, step, started, error)
    except (InputError, ray.train.TrainingFailedError) as error:
        return _failed(trials, step, started, error)
    curves = [curve_of(one.metrics) for one in trained]
    return Result(
        number=step.number,
        rung=step.rung,
        epoch=step.epoch,
        curve=mean_curve(curves),
        values=[curve[-1] for curve in curves],
        latest=statistics.fmean(_latest(one.metrics) for one in trained),
        examples=sum(len(curve) for curve in curves) * trials.epoch_examples,
        seconds=round(time.monotonic() - started, 3),
        settings=dict(step.settings),
        finished=all(one.finished for one in trained),
    )


def _failed(trials: Trials, step: Step, started: float, error: InputError | ray.train.TrainingFailedError) -> Result:
    """Return that a step failed, and why."""
    return Result(
        number=step.number,
        rung=step.rung,
        epoch=step.epoch,
        curve=[],
        values=[],
        latest=math.nan,
        examples=step.epoch * trials.epoch_examples * len(trials.job.runs),
        seconds=round(time.monotonic() - started, 3),
        settings=dict(step.settings),
        finished=False,
        failure=reason_of(error),
    )


def _train(trials: Trials, step: Step, run: Run, report: Report) -> Trained:
    """Train one of the trial's runs as far as the rung; in a population from its origin's checkpoint."""
    out = trials.run_dir(step.number, run, rung=step.rung)
    job = trials.job.train_job(step.settings, out, run)
    if isinstance(trials.job.search, Population) and step.rung > 0:
        _inherit(trials.run_dir(step.origin, run, rung=step.rung - 1), job, trials.start_dir)
    told = report if len(trials.job.runs) == 1 else partial(_report_of_run, run.name, report)
    return train(job, start_dir=trials.start_dir, until_epoch=step.epoch, report=told)


def _report_of_run(name: str, report: Report, progress: Progress) -> None:
    """Tell the figures of one of several runs under its name."""
    report(progress._replace(figures={f"{name}.{figure}": value for figure, value in progress.figures.items()}))


def _inherit(origin: Path, job: TrainJob, start_dir: Path | None) -> None:
    """Put an origin's checkpoint where the job goes on from it, unless that was done before."""
    out = Path(job.out)
    if not out.exists() and not out.with_name(f"{out.name}.unfinished").exists():
        take_over(origin, job, start_dir)


def curve_of(metrics: Mapping[str, Any]) -> list[float]:
    """Return a training's validation metric after each epoch, the best so far [E]; of a linear model only the last."""
    return best_so_far(_by_epoch(metrics))


def _latest(metrics: Mapping[str, Any]) -> float:
    """Return a training's validation metric after its last epoch: what its last weights are worth."""
    return _by_epoch(metrics)[-1]


def _by_epoch(metrics: Mapping[str, Any]) -> list[float]:
    """Return a training's validation metric after each epoch [E], NaN where it has none."""
    history = metrics["history"]
    values = [row["valid.pearson"] for row in history if "epoch" in row] or [metrics["valid.pearson"]]
    return [math.nan if value is None else value for value in values]


def reason_of(error: InputError | ray.train.TrainingFailedError) -> str:
    """Say why a trial failed, in one line."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    failures = list(getattr(error, "worker_failures", {}).values())
    cause: BaseException = failures[0] if failures else error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else 'without a word'}"
