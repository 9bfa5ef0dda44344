"""Plan a training: its steps as the reader deals them, a few of them done and thrown away."""

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import ray
import torch
from torch import nn

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import SHALLOW
from cisray.datasets.card import Card, read_card
from cisray.errors import InputError
from cisray.flows.cluster import cluster
from cisray.flows.feed import make_feed
from cisray.flows.learn import build_for, sources_of, tasks_of
from cisray.flows.plans.figures import COMMAND_S, TRAINER_S, Figure, JobPlan, Phase, PlanSpec, time_figure
from cisray.flows.plans.probe import check_gpus, peak_bytes
from cisray.flows.spread import result_of
from cisray.flows.train_job import TrainJob
from cisray.training.batches import Batch, cut_windows, one_ahead
from cisray.training.checkpoints import write_learner
from cisray.training.loop import Learner
from cisray.training.meter import count_flop
from cisray.training.tasks import Workers
from cisray.training.validation import run_head

FORWARD_SHARE = 1 / 3
"""Of the arithmetic of learning from an example, what predicting it takes."""
WARM_STEPS = 2
"""Whose seconds count for nothing: memory is taken, kernels are chosen or compiled."""
VALID_SHARE = 0.2
"""Of the time to probe, for validation."""


class Epochs(NamedTuple):
    """What a training reads, and how often."""

    steps: int
    """Of all epochs."""
    epochs: int
    train_examples: int
    """By all workers in all epochs."""
    valid_examples: int
    """Of one epoch and all workers."""
    checkpoints: int
    flop: float
    """Of learning from one example, the mean over datasets; 0 where it cannot be counted."""
    parameters: int

    @property
    def whole_flop(self) -> float:
        """Of learning and validating."""
        return self.flop * (self.train_examples + FORWARD_SHARE * self.epochs * self.valid_examples)


class TimedTraining(NamedTuple):
    """What a worker's steps took, the mean over the workers that did some side by side."""

    ray_s: float
    opening_s: float
    """Until all workers have started and built their network."""
    reading_s: float
    """Of one epoch until its first batch was there, for training and for validation."""
    first_s: float
    """Of the first epoch's reading and steps beyond what later ones take."""
    step_s: float
    valid_s: float
    """Of predicting an example."""
    save_s: float
    """Of writing the learner down."""
    steps: int
    """That were timed."""
    peak_bytes: int


def count_epochs(job: TrainJob, cards: Mapping[str | None, Card]) -> Epochs:
    """Count what a training does if no epoch is left out, by the reader's own deal of its rows."""
    spec, world = job.training, job.workers.num_workers
    feed = make_feed(sources_of(job, cards), {}, spec, rank=0, world=world)
    steps = [feed.steps(epoch) for epoch in range(spec.epochs)]
    rows = {head: card.counts["train"] for head, card in cards.items()}
    with torch.device("meta"):
        network = build_for(job, cards)
    flop = {head: count_flop(network, card.geometry.window_bp, head=head) for head, card in cards.items()}
    whole = sum(rows.values())
    drawn = any(one.weight for one in job.datasets.values())  # as often as their weights say
    examples = sum(steps) * spec.examples_per_step * world
    return Epochs(
        steps=sum(steps),
        epochs=spec.epochs,
        train_examples=examples if drawn else min(examples, whole * spec.epochs),
        valid_examples=sum(card.counts["valid"] for card in cards.values()),
        checkpoints=sum(max(1, math.ceil(one / spec.checkpoint_steps)) for one in steps),
        flop=sum(flop[head] * rows[head] for head in rows) / max(1, whole) if all(flop.values()) else 0.0,
        parameters=sum(weight.numel() for weight in network.parameters()),
    )


def is_shallow(job: TrainJob) -> bool:
    """Say whether a job's model is no network, but fitted by a library of its own."""
    return isinstance(job.model, (KmerRidgeConfig, *SHALLOW))


def plan_train(job: TrainJob, spec: PlanSpec) -> JobPlan:
    """Return what a training will take, if it goes on to its last epoch; nothing is written.

    Raises:
        InputError: a dataset is not whole, or the settings do not fit it.
    """
    if spec.workers is not None:
        threads = job.workers.threads  # of one worker on another cluster, as here
        workers = dataclasses.replace(job.workers, num_workers=spec.workers, cpus_per_worker=threads)
        job = dataclasses.replace(job, workers=workers)
    job = job.with_local_datasets()
    cards = {head: read_card(Path(path)) for head, path in job.sources.items()}
    if is_shallow(job):
        return JobPlan("train", job.name, _shallow_figures(job, cards))
    epochs = count_epochs(job, cards)
    figures = _counts(job, cards, epochs)
    if spec.probe_s:
        figures += _costs(job, spec, epochs, probe_training(job, limit_s=spec.probe_s))
    return JobPlan("train", job.name, figures)


def _shallow_figures(job: TrainJob, cards: Mapping[str | None, Card]) -> list[Figure]:
    """Return what can be said of a model that its own library fits."""
    why = f"of the train split; how long {job.model.architecture} takes, only its library could say"
    (card,) = cards.values()
    return [
        Figure("rows", card.counts["train"], "rows", "counted", why),
        Figure("read", _read_bytes(job, cards, epochs=1), "bytes", "counted", "train and valid splits, once"),
    ]


def _read_bytes(job: TrainJob, cards: Mapping[str | None, Card], *, epochs: int) -> int:
    """Return the bytes of files that are read, those of the test split never."""
    return epochs * sum(
        (Path(job.sources[head]) / file.path).stat().st_size
        for head, card in cards.items()
        for file in card.files
        if file.split != "test"
    )


def _counts(job: TrainJob, cards: Mapping[str | None, Card], epochs: Epochs) -> list[Figure]:
    world = job.workers.num_workers
    per_step = f"{job.training.examples_per_step} examples on each of {world} workers"
    flop = f"{epochs.flop / 1e9:,.3g} GFLOP per example, forward and back, and a third of it in validation"
    weights = 4 * epochs.parameters * (3 if job.training.optimizer == "sgd" else 4)
    read = _read_bytes(job, cards, epochs=epochs.epochs)
    return [
        Figure("steps", epochs.steps, "steps", "counted", f"of {epochs.epochs} epochs, {per_step}"),
        Figure("rows", epochs.train_examples, "examples", "counted", "of all epochs; fewer if it stops early"),
        Figure("read", read, "bytes", "counted", "train and valid splits in every epoch"),
        Figure("written", epochs.checkpoints * weights, "bytes", "counted", f"{epochs.checkpoints} checkpoints"),
        Figure("FLOP", round(epochs.whole_flop), "FLOP", "counted", flop if epochs.flop else "cannot be counted"),
        Figure("workers", world, "processes", "counted", f"with {job.workers.threads} threads each"),
    ]


def _costs(job: TrainJob, spec: PlanSpec, epochs: Epochs, timed: TimedTraining) -> list[Figure]:
    """Return the figures of time and memory."""
    world = job.workers.num_workers
    steps_s = epochs.steps * timed.step_s / spec.speed
    valid_s = epochs.epochs * epochs.valid_examples * timed.valid_s / world / spec.speed
    phases = [
        Phase("to start the command", COMMAND_S["train"], "assumed"),
        Phase("until workers are ready", timed.ray_s + timed.opening_s),
        Phase("of Ray Train", TRAINER_S, "assumed"),
        Phase("to begin reading", epochs.epochs * timed.reading_s),
        Phase("of steps", timed.first_s + steps_s),
        Phase("of validation", valid_s),
        Phase("of checkpoints", epochs.checkpoints * timed.save_s),
    ]
    why = f"{timed.steps} steps of {job.training.examples_per_step} examples were done here"
    if world > 1:
        why += "; that workers exchange gradients is not in it"
        if job.workers.strategy == "shard":
            why += "; each worker that was timed held the whole network"
    if job.start.model:
        why += "; as if all weights learned"
    return [
        Figure("work", (steps_s + valid_s) * world, "seconds", "measured", f"of one worker; {why}"),
        time_figure(phases, why),
        Figure("memory", timed.peak_bytes, "bytes", "measured", "per worker, the most of those that were timed"),
    ]


def probe_training(job: TrainJob, *, limit_s: float) -> TimedTraining:
    """Let as many of the job's workers as this machine has room for do a few steps, and return what they took."""
    room = torch.cuda.device_count() if job.workers.use_gpu else (os.cpu_count() or 1) // job.workers.threads
    workers = max(1, min(job.workers.num_workers, room))
    asked = time.monotonic()
    with cluster(job.cluster):
        up = time.monotonic()
        gpus = 1 if job.workers.use_gpu else 0
        check_gpus(gpus)
        learner = ray.remote(num_cpus=0, num_gpus=gpus)(_ProbeLearner)
        learners = [learner.remote(job, rank) for rank in range(workers)]
        for reference in [each.open.remote() for each in learners]:
            result_of(reference)
        opened = time.monotonic()
        found: list[dict[str, Any]] = [
            result_of(reference) for reference in [each.probe.remote(limit_s=limit_s) for each in learners]
        ]
        for each in learners:
            ray.kill(each)
    means = {name: fmean(one[name] for one in found) for name in found[0] if name not in ("steps", "peak_bytes")}
    return TimedTraining(
        ray_s=up - asked,
        opening_s=opened - up,
        steps=sum(one["steps"] for one in found),
        peak_bytes=max(one["peak_bytes"] for one in found),
        **means,
    )


class _ProbeLearner:
    """A process that learns as a worker of a training does, and throws its weights away."""

    def __init__(self, job: TrainJob, rank: int) -> None:
        self._job, self._rank = job, rank

    def open(self) -> None:
        """Build the network; here and not before, so that bad input comes back as what it is."""
        job = self._job
        torch.set_num_threads(job.workers.threads)
        torch.manual_seed(job.training.seed)
        cards = {head: read_card(Path(path)) for head, path in job.sources.items()}
        network: nn.Module = build_for(job, cards)
        self._workers = Workers(0, torch.device("cuda" if job.workers.use_gpu else "cpu"))
        tasks = tasks_of(job, cards, network)
        world = job.workers.num_workers
        self._feed = make_feed(sources_of(job, cards), tasks, job.training, rank=self._rank, world=world)
        self._learner = Learner(network, spec=job.training)
        self._learner.to(self._workers.device)

    def probe(self, *, limit_s: float) -> dict[str, Any]:
        """Do a few steps, predict a few batches of the validation split, write the learner down once."""
        try:
            return self._probe(limit_s)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"plan: a step takes more memory than the device has ({error}); lower training.batch_size, or count "
                "only, with --probe 0: what is timed holds the whole network, whatever workers.strategy says"
            ) from error

    def _probe(self, limit_s: float) -> dict[str, Any]:
        batches = one_ahead(self._feed.train(0, 0), self._workers.device)
        steps, reading_s = _timed(batches, self._step, limit_s=limit_s * (1 - VALID_SHARE))
        valid, valid_reading_s = _timed(
            one_ahead(self._feed.valid(), self._workers.device), self._predict, limit_s=limit_s * VALID_SHARE
        )
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            write_learner(Path(folder) / "learner", self._learner, first=True)
        save_s = time.perf_counter() - started
        steady = steps[WARM_STEPS:] or steps[-1:]
        step_s = sum(one.seconds for one in steady) / len(steady)
        warm_s = sum(one.seconds for one in steps[:WARM_STEPS])
        steady_valid = valid[1:] or valid
        examples = sum(one.examples for one in steady_valid)
        gpu = self._workers.device.type == "cuda"
        return {
            "reading_s": 2 * valid_reading_s,
            "first_s": max(0.0, reading_s - valid_reading_s) + max(0.0, warm_s - WARM_STEPS * step_s),
            "step_s": step_s,
            "valid_s": sum(one.seconds for one in steady_valid) / max(1, examples),
            "save_s": save_s,
            "steps": len(steady),
            "peak_bytes": torch.cuda.max_memory_allocated() if gpu else peak_bytes(),
        }

    def _step(self, batch: Batch) -> None:
        """Take one step, to its end on a GPU too."""
        total_steps = 1 + self._learner.learned.step
        float(self._learner.step(batch, self._feed, workers=self._workers, total_steps=total_steps))

    @torch.no_grad()
    def _predict(self, batch: Batch) -> None:
        """Predict a batch as validation does."""
        network, task = self._learner.evaluated, self._feed.tasks[batch.head]
        network.eval()
        outputs = run_head(network, cut_windows(batch.codes, margin_bp=task.margin_bp), batch.head)
        float(task.goal.predict(outputs).sum())


class _Took(NamedTuple):
    examples: int
    seconds: float


def _timed(batches: Iterator[Batch], do: Callable[[Batch], None], *, limit_s: float) -> tuple[list[_Took], float]:
    """Do something with batches as long as there is time; return what each took, waiting and doing, and the first wait.

    At least WARM_STEPS + 1 are done, where there are so many.
    """
    asked = time.perf_counter()
    found: list[_Took] = []
    waited_s = 0.0
    for batch in batches:
        if not found:
            waited_s = time.perf_counter() - asked
            started = last = asked + waited_s
        do(batch)
        now = time.perf_counter()
        found.append(_Took(len(batch.codes), now - last))
        last = now
        if len(found) > WARM_STEPS and now - started > limit_s:
            break
    return found, waited_s
