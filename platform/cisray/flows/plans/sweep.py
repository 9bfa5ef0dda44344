"""Plan a sweep: its schedule played through with trials whose worth is drawn at random, one of them trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cisray.datasets.card import read_card
from cisray.flows.plans.figures import COMMAND_S, TRAINER_S, Figure, JobPlan, Phase, PlanSpec, makespan_s, time_figure
from cisray.flows.plans.train import Epochs, TimedTraining, count_epochs, is_shallow, probe_training
from cisray.flows.sweep import rules_of, slots_of
from cisray.flows.sweep_job import SweepJob
from cisray.flows.sweep_trial import Trials
from cisray.flows.train_job import TrainJob
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.schedule import Result, Step, make_schedule

MOST_COUNTED = 64
"""Trials whose networks are counted; of more, these stand for all."""


class _Trial(NamedTuple):
    """What one trial does by its schedule."""

    job: TrainJob
    epochs: int
    """To which it comes."""
    rungs: int
    runs: int


def play_schedule(job: SweepJob, epoch_examples: int) -> list[Step]:
    """Return the steps of all trials, one after another, if their worth is drawn at random and none changes it."""
    trials = Trials(job, SweepFolder(Path("any")), None, epoch_examples)
    rules = rules_of(trials)
    schedule = make_schedule(rules)
    worth = np.random.default_rng(job.seed).random(max(1, job.num_trials)).tolist()
    steps = []
    while (step := schedule.next_step(())) is not None:
        steps.append(step)
        curve = [worth[step.number]] * step.epoch
        schedule.tell(
            Result(
                number=step.number,
                rung=step.rung,
                epoch=step.epoch,
                curve=curve,
                values=curve[-1:],
                latest=curve[-1],
                examples=step.epoch * epoch_examples * len(job.runs),
                seconds=0.0,
                settings=dict(step.settings),
                finished=step.epoch >= rules.epochs_of(step.settings),
            )
        )
    return steps


def plan_sweep(job: SweepJob, spec: PlanSpec) -> JobPlan:
    """Return what the search of a sweep will take; its winner, baselines and test split are not in it."""
    example = job.example.with_local_datasets()
    cards = {head: read_card(Path(path)) for head, path in example.sources.items()}
    trials = _trials(job, play_schedule(job, sum(card.counts["train"] for card in cards.values())))
    counted = {number: count_epochs(trial.job.with_local_datasets(), cards) for number, trial in _some(trials).items()}
    at_once = spec.workers or slots_of(job, job.example.cluster.expected_nodes())
    at_once = max(1, min(at_once, len(trials)))
    share = sum(trial.epochs for trial in trials.values()) / sum(trial.job.training.epochs for trial in trials.values())
    figures = _counts(trials, counted, at_once, share)
    if spec.probe_s and counted:
        number = sorted(counted, key=lambda one: counted[one].flop)[len(counted) // 2]
        timed = probe_training(trials[number].job.with_local_datasets(), limit_s=spec.probe_s)
        figures += _costs(trials, counted, (number, timed), spec, at_once)
    return JobPlan("sweep", job.name, figures)


def _trials(job: SweepJob, steps: list[Step]) -> dict[int, _Trial]:
    """Return what each trial does, by number."""
    found: dict[int, _Trial] = {}
    for step in steps:
        train_job = job.train_job(step.settings, Path("any"), job.runs[0])
        epochs = max(step.epoch, found[step.number].epochs) if step.number in found else step.epoch
        found[step.number] = _Trial(train_job, epochs, step.rung + 1, len(job.runs))
    return found


def _some(trials: Mapping[int, _Trial]) -> dict[int, _Trial]:
    """Return trials of networks whose arithmetic is counted: all, or some from all over the sweep."""
    networks = {number: trial for number, trial in trials.items() if not is_shallow(trial.job)}
    step = max(1, len(networks) // MOST_COUNTED)
    return dict(list(networks.items())[::step])


def _counts(trials: Mapping[int, _Trial], counted: Mapping[int, Epochs], at_once: int, share: float) -> list[Figure]:
    epochs = sum(trial.epochs * trial.runs for trial in trials.values())
    played = f"played through with worths at random: trials come to {share:.0%} of their epochs"
    shallow = sum(is_shallow(trial.job) for trial in trials.values())
    figures = [
        Figure("trials", len(trials), "trials", "counted", f"{shallow:,} of them shallow models, which are not timed"),
        Figure("epochs", epochs, "epochs", "assumed", played),
        Figure("workers", at_once, "trials", "counted", "that train at once"),
    ]
    if counted:
        ends = [one.whole_flop * trials[number].epochs / one.epochs for number, one in counted.items()]
        total = float(np.mean(ends)) * next(iter(trials.values())).runs * (len(trials) - shallow)
        figures.append(Figure("FLOP", round(total), "FLOP", "assumed", f"by the networks of {len(counted):,} trials"))
    return figures


def _costs(
    trials: Mapping[int, _Trial],
    counted: Mapping[int, Epochs],
    probe: tuple[int, TimedTraining],
    spec: PlanSpec,
    at_once: int,
) -> list[Figure]:
    """Return the figures of time and memory; what was not counted takes the mean of what was."""
    probed, timed = probe
    per_example = timed.step_s / trials[probed].job.training.examples_per_step
    seconds: dict[int, float] = {}
    for number, one in counted.items():
        trial = trials[number]
        of_flop = one.flop / counted[probed].flop if counted[probed].flop else 1.0
        world = trial.job.workers.num_workers
        learning = one.train_examples / world * per_example * of_flop
        validating = one.epochs * one.valid_examples / world * timed.valid_s * of_flop
        part = trial.epochs / one.epochs
        whole = (learning + validating) / spec.speed + one.epochs * timed.reading_s + one.checkpoints * timed.save_s
        seconds[number] = trial.runs * (whole * part + TRAINER_S * trial.rungs)
    mean = float(np.mean(list(seconds.values())))
    each = [seconds.get(number, 0.0 if is_shallow(trial.job) else mean) for number, trial in trials.items()]
    why = f"{timed.steps} steps of trial {probed}, the median by FLOP, were done here; others take as their FLOP say"
    phases = [
        Phase("to start the command", COMMAND_S["sweep"], "assumed"),
        Phase("until workers are ready", timed.ray_s + timed.opening_s),
        Phase(f"of trials, {at_once} at once", makespan_s(each, at_once)),
    ]
    figure = time_figure(phases, f"{why}; winner, baselines and test split are not in it")
    return [
        Figure("work", sum(each), "seconds", "assumed", f"of one trial at a time; {why}"),
        figure._replace(basis="assumed"),
        Figure("memory", timed.peak_bytes, "bytes", "measured", f"of a worker of trial {probed}"),
    ]
