"""What does the training loop cost beside a bare one, activation checkpointing save, and Ray add; what does bf16 bring?

`--parts steps` and `--parts memory` are told in `_steps.py` and `_memory.py`; they need no Ray. For memory `--scale`
is a factor on the 20 GiB that the widest pass may take, and each way runs once.

`--parts ray`: the tiny network learns from the same batches in the same order, with as many threads: by `flows.train`,
whose worker is a process of its own that Ray Data reads ahead for, and by `training.loop.fit` in this process, which
reads as it goes. The steady rate is counted within epochs, from one report of the loop to the last; all else (worker
start, the wait for an epoch's first batch, validation, checkpoints) is the rest. Ray idles while the bare loop runs.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from _genome import JOBS, scratch_folder, simulate_genome, tiny_build_job
from _memory import measure_memory
from _steps import compare_loops
from _table import Marks, Options, finish, interleave, print_rates, print_table, read_options, seconds_of, significant

from cisray.bundle import build_network
from cisray.config import load_job
from cisray.datasets.card import Card, read_card
from cisray.datasets.reading import read_epoch, read_order
from cisray.datasets.schema import layout_of
from cisray.flows.build import build
from cisray.flows.cluster import cluster
from cisray.flows.train import train
from cisray.flows.train_job import TrainJob
from cisray.progress import Progress, silent
from cisray.training.batches import Batch
from cisray.training.loop import Learner, fit
from cisray.training.tasks import Feed, Task

TRAIN_BP = 750_000
HELD_OUT_BP = 60_000
EPOCHS = 1


class Run(NamedTuple):
    """What one training run told."""

    steady: float
    """Examples per second within epochs."""
    examples: int
    losses: list[float]
    """As reported, one in twenty steps."""


def read_run(told: list[Progress], batch_size: int) -> Run:
    """Make a run's figures of its reports, each of which tells the rate since the one before it."""
    steps = [one for one in told if one.stage == "train"]
    ends = [one.done for one in told if one.stage == "valid"]
    examples = seconds = 0.0
    for before, after in zip([0, *ends], ends, strict=False):
        epoch = [one for one in steps if before < one.done <= after]
        for earlier, one in pairwise(epoch):
            done = (one.done - earlier.done) * batch_size
            examples, seconds = examples + done, seconds + done / one.figures["examples_per_s"]
    return Run(examples / seconds, ends[-1] * batch_size, [one.figures["train.loss"] for one in steps])


def bare_feed(dataset_dir: Path, card: Card, job: TrainJob) -> Feed:
    """Return the batches that a single worker of `flows.train` sees, read in this process."""
    batch_size = job.training.batch_size
    train_order = read_order(dataset_dir, card, "train", seed=job.training.seed)
    valid_order = read_order(dataset_dir, card, "valid")
    layout = layout_of(card)

    def batches(order, epoch: int, steps_done: int = 0) -> Iterator[Batch]:
        for examples in read_epoch(order, epoch, layout, batch_size=batch_size, rows_seen=steps_done * batch_size):
            yield Batch(torch.from_numpy(examples.codes), torch.from_numpy(examples.targets))

    return Feed(
        partial(batches, train_order),
        partial(batches, valid_order, 0),
        lambda epoch: train_order.steps(epoch, batch_size),
        {None: Task(torch.tensor(card.strand_swap()), card.geometry.margin_bp)},
    )


def train_bare(job: TrainJob, runs: list[Run]) -> None:
    """Train in this process, writing nothing, and note how the run went."""
    card = read_card(Path(job.dataset))
    torch.set_num_threads(job.workers.threads)
    torch.manual_seed(job.training.seed)
    network = build_network(job.model, geometry=card.geometry, num_tracks=len(card.tracks))
    network.head.start_at([card.statistics["train"][name].mean for name in card.track_names])
    marks = Marks()
    learner = Learner(network, spec=job.training)
    fit(learner, bare_feed(Path(job.dataset), card, job), save=lambda learner: None, report=marks)
    runs.append(read_run([told for _, told in marks.told], job.training.batch_size))


def train_on_ray(make_job: Callable[[Path], TrainJob], folder: Path, runs: list[Run]) -> None:
    """Train with the flow, into a new folder, and note how the run went."""
    job = make_job(folder / f"model{len(runs)}")
    marks = Marks()
    train(job, report=marks)
    runs.append(read_run([told for _, told in marks.told], job.training.batch_size))


def compare_roads(dataset_dir: Path, folder: Path, options: Options) -> dict[str, float]:
    """Time both roads, and the bare one in bf16 too."""

    def make_job(precision: str, out: Path) -> TrainJob:
        settings = [f"dataset={dataset_dir}", f"out={out}", f"training.epochs={EPOCHS}"]
        return load_job(JOBS / "train.toml", TrainJob, [*settings, f"training.precision={precision}"])

    runs: dict[str, list[Run]] = {"bare": [], "Ray": [], "bare, bf16": []}
    seconds = interleave(
        {
            "bare": lambda: train_bare(make_job("float32", folder), runs["bare"]),
            "Ray": lambda: train_on_ray(partial(make_job, "float32"), folder, runs["Ray"]),
            "bare, bf16": lambda: train_bare(make_job("bf16", folder), runs["bare, bf16"]),
        },
        repeats=options.repeats,
        warm_up=False,
    )
    examples = runs["bare"][0].examples
    title = f"tiny network, {EPOCHS} epoch, {examples} examples, steady rate"
    rates = {name: [run.steady for run in each] for name, each in runs.items()}
    medians = print_rates(title, rates, unit="examples", against="bare")
    rest = {
        name: median(wall - examples / run.steady for wall, run in zip(seconds[name], runs[name], strict=True))
        for name in runs
    }
    rows = [[name, significant(median(seconds[name])), significant(rest[name])] for name in runs]
    print_table("whole run, s", ["", "whole", "of which rest"], rows)
    same = runs["bare"][0].losses == runs["Ray"][0].losses
    difference = max(abs(a - b) for a, b in zip(runs["bare"][0].losses, runs["Ray"][0].losses, strict=True))
    print(f"  losses of both roads: {'the same to the bit' if same else f'differ by up to {difference:.1e}'}")
    return {
        "ray.examples_per_s": medians["Ray"],
        "bare.examples_per_s": medians["bare"],
        "ray_to_bare.ratio": medians["Ray"] / medians["bare"],
        "bf16_to_float32.ratio": medians["bare, bf16"] / medians["bare"],
        "ray.fixed_s": rest["Ray"] - rest["bare"],
    }


def measure_ray(options: Options) -> dict[str, float]:
    """Build the tiny dataset, and train on it by both roads."""
    with scratch_folder() as folder:
        bases = options.scaled(TRAIN_BP, at_least=700_000)  # enough for two reports per epoch
        genome_dir = simulate_genome(folder / "genome", train_bp=bases, held_out_bp=HELD_OUT_BP)
        job = tiny_build_job(genome_dir, folder / "dataset")
        here = cluster(job.cluster)
        start_s = seconds_of(here.__enter__)
        try:
            figures = compare_roads(build(job, report=silent), folder, options) | {"ray.start_s": start_s}
        finally:
            here.__exit__(None, None, None)
    print(f"  {os.cpu_count()} threads; Ray's own start, beforehand: {start_s:.1f} s")
    return figures


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=3, parts=("steps", "memory", "ray"))
    figures: dict[str, float] = {}
    if "steps" in options.parts:
        with tempfile.TemporaryDirectory() as name:
            found = compare_loops(Path(name), options)
        figures |= {f"basenji2_quarter.{key}": value for key, value in found.items()}
    if "memory" in options.parts:
        figures |= {f"checkpointing.{key}": value for key, value in measure_memory(options).items()}
    if "ray" in options.parts:
        figures |= measure_ray(options)
    finish("train", {f"train.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
