"""Try settings of a training and keep the best: many runs of `train` at a time, compared on the validation split.

Ray Tune stops a trial that trains by Ray Train without giving its workers back, copies no weights in its population
based training, and decides by who comes first, so that no two sweeps are alike. Here threads of the driver call the
same `train` that `cisray train` calls, one rung at a time, as `cisray.sweeps.schedule` says; Ray Train lets a trainer
be started from any thread. Each rung leaves a receipt, and a rerun goes on from those and from the checkpoints:

    sweep.json        what was asked, the winner, and what winner and baselines came to on the test split
    leaderboard.csv   a row per trial and baseline
    trials/0007/      settings, receipts per rung, and the bundles of a trial that came to its end
    winner/           the bundle
    baselines/NAME/   a bundle per run
    test/NAME/        evaluations on the test split, read for nothing else
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cisray import __version__
from cisray.bundle import bundle_digest
from cisray.datasets.card import Card, read_card
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.cluster import cluster
from cisray.flows.resources import Node, nodes_here, num_held, room_for
from cisray.flows.shards import open_staging
from cisray.flows.sweep_end import (
    Baseline,
    baseline_dir,
    is_trained_anew,
    make_winner,
    measure_baseline,
    measure_on_test,
)
from cisray.flows.sweep_job import SweepJob
from cisray.flows.sweep_trial import Trials, take_step
from cisray.flows.train import train_plan
from cisray.flows.train_job import WORKER_PROCESS
from cisray.progress import Progress, Report, silent
from cisray.remote import local_path
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.leaderboard import (
    LEADERBOARD_NAME,
    METRIC,
    SWEEP_NAME,
    Row,
    order_of,
    rank,
    row_of,
    write_leaderboard,
)
from cisray.sweeps.population import Population
from cisray.sweeps.schedule import Result, Rules, Schedule, Step, make_schedule
from cisray.training.metrics import DEFINITIONS


class Listener(Protocol):
    """Who follows trials; called from the driver's main thread, but for the reports that it gives."""

    def begin(self, number: int, settings: Mapping[str, Any]) -> Report:
        """Return whom a trial reports to, which begins or goes on."""

    def end(self, row: Row) -> None:
        """Hear what a trial came to; said again after a restart."""


class Unheard:
    """Listens to no trial."""

    def begin(self, number: int, settings: Mapping[str, Any]) -> Report:
        """Return a report that nobody hears."""
        return silent

    def end(self, row: Row) -> None:
        """Ignore what a trial came to."""


def sweep(
    job: SweepJob, *, start_dir: Path | None = None, listener: Listener | None = None, report: Report = silent
) -> Path:
    """Search, or go on with it, make the winner's bundle and the baselines', read the test split, return the folder.

    Args:
        job: what to try.
        start_dir: the folder of the bundle that the trainings' `start.model` names.
        listener: told what each trial does.
        report: told how many trials have ended, and what is done after.

    Raises:
        InputError: the job does not fit its dataset, the cluster can never hold a trial, or no trial came to anything.
    """
    out = Path(job.out).absolute()
    job = _with_absolute_paths(job)
    cards = {head: read_card(Path(path)) for head, path in job.example.sources.items()}
    staging = open_staging(out, _plan(job, cards, start_dir))
    if staging is None:
        return out
    epoch_examples = sum(card.counts["train"] for card in cards.values())
    trials = Trials(job, SweepFolder(staging.path), start_dir, epoch_examples)
    with cluster(job.cluster):
        schedule = _search(trials, listener or Unheard(), report)
        rows = rank(schedule)
        if not rows or rows[0].value is None or rows[0].status == "failed":
            reasons = "; ".join(dict.fromkeys(row.failure for row in rows if row.failure))
            raise InputError(
                f"{staging.path}: none of {len(rows)} trials came to a validation metric ({reasons or 'all are NaN'}); "
                "change [space] or [train], remove the folder, and run again"
            )
        last_rung = len(schedule.results[rows[0].number]) - 1
        bundles = {"winner": make_winner(trials, rows[0], last_rung=last_rung, report=report)}
        baselines = _measure_baselines(trials, report)
        for name, baseline in baselines.items():
            if not baseline.failure:
                bundles[name] = baseline_dir(trials, name, job.runs[0].name)
        test = measure_on_test(trials, bundles, report=report)
    results = _results(trials, cards, rows, baselines, test)
    write_leaderboard(staging.path / LEADERBOARD_NAME, results)
    write_json(staging.path / SWEEP_NAME, results)
    staging.finish()
    return out


def _other_tests(job: SweepJob) -> list[str]:
    """Return the datasets of repeats whose test split is another than the first's: their trials may learn from it."""
    tests = {
        path: {file.sha256 for file in read_card(Path(path)).files if file.split == "test"}
        for path in job.repeats.datasets
    }
    first = next(iter(tests.values()), set())
    return [path for path, files in tests.items() if files != first]


def _with_absolute_paths(job: SweepJob) -> SweepJob:
    """Return the job for Ray's workers, which have a working directory of their own."""
    absolute = job.example.with_local_datasets()
    shared = dict(job.train)
    if absolute.dataset is not None:
        shared["dataset"] = absolute.dataset
    else:
        shared["datasets"] = {head: dataclasses.asdict(one) for head, one in absolute.datasets.items()}
    folds = tuple(str(local_path(path)) for path in job.repeats.datasets)
    return dataclasses.replace(job, train=shared, repeats=dataclasses.replace(job.repeats, datasets=folds))


def _plan(job: SweepJob, cards: Mapping[str | None, Card], start_dir: Path | None) -> dict[str, Any]:
    """Return what makes two sweeps the same: neither where files stand, nor on what machines it runs."""
    asked = dataclasses.asdict(job)
    for name in ("out", "train", "cluster", "at_once"):
        del asked[name]
    asked["repeats"]["datasets"] = [read_card(Path(path)).digest for path in job.repeats.datasets]
    shared = {name: value for name, value in job.train.items() if name not in ("dataset", "datasets", "workers")}
    return asked | {
        "train": shared,
        "training": train_plan(job.example, cards, start_dir),
        "cisray": __version__,
    }


def _search(trials: Trials, listener: Listener, report: Report) -> Schedule:
    """Take all trials to their ends, as many at once as there is room for."""
    job, folder = trials.job, trials.folder
    schedule = make_schedule(rules_of(trials))
    begun, results = folder.read()
    for number, settings in begun.items():
        if number not in schedule.settings:  # a population's are there from the start
            schedule.begin(number, settings)
    schedule.tell(*results)
    ends = _Ends(trials, schedule, listener, report)
    running: dict[Future[Result], Step] = {}
    nodes = nodes_here()
    slots = slots_of(job, nodes)
    of_a_trial = job.example.workers.on(nodes).request("train.workers")
    with room_for(of_a_trial, process=WORKER_PROCESS, report=report), _threads(slots) as pool:
        while True:
            ends.say()
            numbers = {step.number for step in running.values()}
            step = schedule.next_step(numbers) if len(running) < slots else None
            if step is not None:
                folder.begin(step.number, step.settings)
                told = listener.begin(step.number, step.settings)
                running[pool.submit(take_step, trials, step, told)] = step
            elif running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    folder.keep(future.result())
                    schedule.tell(future.result())
                    del running[future]
            else:
                return schedule


def _measure_baselines(trials: Trials, report: Report) -> dict[str, Baseline]:
    """Train all baselines, as many at once as trials were."""
    names = list(trials.job.baselines)
    if not names:
        return {}
    told = partial(_tell_waits, report)
    report(Progress("baselines", 0, len(names), "baselines"))
    with _threads(slots_of(trials.job, nodes_here())) as pool:
        running = {pool.submit(measure_baseline, trials, name, report=told): name for name in names}
        for done, future in enumerate(as_completed(running), 1):
            found = future.result()
            came_to = f"failed: {found.failure}" if found.failure else _written(found.value)
            report(Progress("baselines", done, len(names), "baselines", note=f"{running[future]}: {came_to}"))
    measured = {name: future.result() for future, name in running.items()}
    return {name: measured[name] for name in names}


def _tell_waits(report: Report, progress: Progress) -> None:
    """Pass on what a training waits for; the steps of several at once would only confuse."""
    if progress.stage == "wait":
        report(progress)


class _Ends:
    """Tells of trials that end, and removes the checkpoints that nobody goes on from."""

    def __init__(self, trials: Trials, schedule: Schedule, listener: Listener, report: Report) -> None:
        self._trials = trials
        self._schedule = schedule
        self._listener = listener
        self._report = report
        self._told = 0
        self._best: Row | None = None

    def say(self) -> None:
        """Tell of the trials that have ended since."""
        of_population = isinstance(self._trials.job.search, Population)
        for number in self._schedule.ended[self._told :]:
            self._told += 1
            row = row_of(self._schedule, number)
            self._best = min(row, self._best or row, key=order_of)
            self._listener.end(row)
            self._report(
                Progress(
                    stage="trials",
                    done=self._told,
                    total=self._schedule.rules.most_trials,
                    unit="trials",
                    figures={} if self._best.value is None else {METRIC: self._best.value},
                    note=f"trial {number} {_in_words(row)}",
                )
            )
            if not of_population:
                self._trials.folder.drop_checkpoints(number)
        if of_population:
            self._drop_generations()

    def _drop_generations(self) -> None:
        """Keep the checkpoints of the last generation, which any trial of this one begins from."""
        schedule, folder = self._schedule, self._trials.folder
        open_trials = [number for number, status in schedule.status.items() if status == "open"]
        if not open_trials:
            for number in schedule.ended:
                folder.drop_checkpoints(number)
            return
        generation = min(len(schedule.results[number]) for number in open_trials)
        for number in schedule.settings:
            folder.drop_generations(number, before=generation - 1)


def _in_words(row: Row) -> str:
    if row.failure:
        return f"failed: {row.failure}"
    return f"{row.status} after {row.epochs} epochs: {_written(row.value)}"


def _written(value: float | None) -> str:
    return "valid r no number" if value is None else f"valid r {value:.4f}"


def rules_of(trials: Trials) -> Rules:
    """Return what a sweep's search goes by."""
    job = trials.job

    def epochs_of(settings: Mapping[str, Any]) -> int:
        return job.train_job(settings, Path("any"), job.runs[0]).training.epochs

    def examples_of(settings: Mapping[str, Any]) -> int:
        return epochs_of(settings) * trials.epoch_examples * len(job.runs)

    return Rules(
        search=job.search,
        space=job.space,
        stopping=job.stopping,
        seed=job.seed,
        most_trials=job.num_trials,
        most_examples=job.budget.examples,
        most_hours=job.budget.hours,
        width=job.width,
        epochs_of=epochs_of,
        examples_of=examples_of,
    )


def slots_of(job: SweepJob, nodes: Sequence[Node]) -> int:
    """Return how many trials train at once: as many as the nodes have the workers' CPUs, GPUs and memory for."""
    workers = job.example.workers.on(nodes)
    room = num_held(workers.need, nodes, cpu_count=os.cpu_count() or 1) // workers.num_workers
    return max(1, min(job.at_once or room, job.num_trials))


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads; at an error the trainings under way are not waited for, for they end with Ray."""
    pool = ThreadPoolExecutor(number, thread_name_prefix="cisray-trial")
    finished = False
    try:
        yield pool
        finished = True
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)


def _results(
    trials: Trials,
    cards: Mapping[str | None, Card],
    rows: list[Row],
    baselines: Mapping[str, Baseline],
    test: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that a page or another program wants to know of a sweep."""
    job, best = trials.job, rows[0]
    measured = {name for heads in test.values() for metrics in heads.values() for name in metrics}
    return {
        "name": job.name,
        "datasets": {head or "": {"name": card.name, "digest": card.digest} for head, card in cards.items()},
        "seed": job.seed,
        "search": dataclasses.asdict(job.search),
        "stopping": dataclasses.asdict(job.stopping),
        "space": {name: dataclasses.asdict(parameter) for name, parameter in job.space.items()},
        "runs": [run.name for run in job.runs],
        "winner": {"trial": best.number, "trained_anew": is_trained_anew(job, best)}
        | {"digest": bundle_digest(trials.folder.path / "winner")},
        "trials": [row._asdict() for row in rows],
        "baselines": {name: one._asdict() for name, one in baselines.items()},
        "test": dict(test),
        "other_tests": _other_tests(job),
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in measured | {"pearson"}},
        "cisray_version": __version__,
    }
