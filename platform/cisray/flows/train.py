"""Train a network on a dataset: Ray Data reads, Ray Train's workers learn, checkpoints carry a run over any death."""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from cisray import __version__
from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig, fit_ridge
from cisray.bundle import ModelConfig, build_network, write_bundle
from cisray.config import STRICT
from cisray.datasets.card import Card, Inputs, read_card
from cisray.datasets.reading import Order, Pool, RowGroup, cut_batches, find_position, read_order, read_pool
from cisray.datasets.schema import decode_examples, layout_of, to_float, verify_dataset
from cisray.errors import InputError
from cisray.files import read_json
from cisray.flows.cluster import ClusterSpec, cluster, relayed
from cisray.flows.shards import RAY_TRAIN, open_staging
from cisray.goals import ObjectiveSpec, choose, make_goal, start_at_means
from cisray.progress import Progress, Report, silent
from cisray.training.batches import Batch, cut_windows
from cisray.training.checkpoints import read_learner, write_learner
from cisray.training.loop import Feed, Learner, Workers, check_shift, fit, validate
from cisray.training.metrics import DEFINITIONS
from cisray.training.spec import TrainSpec

# A lost worker restarts its group from the last checkpoint, this often.
MOST_FAILURES = 3


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerSpec:
    """How many processes learn together, and what each has."""

    num_workers: int = 1
    cpus_per_worker: int | None = None
    """Threads of a worker; None shares this machine's CPUs among the workers."""
    use_gpu: bool = False

    def __post_init__(self) -> None:
        if self.num_workers < 1 or (self.cpus_per_worker is not None and self.cpus_per_worker < 1):
            raise InputError(f"workers: {self}; wanted at least one worker with at least one CPU")

    @property
    def threads(self) -> int:
        """CPUs of one worker."""
        return self.cpus_per_worker or max(1, (os.cpu_count() or 1) // self.num_workers)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainJob:
    """What `cisray train` reads from a job file."""

    name: str
    """The model's name in the registry, and its experiment's."""
    dataset: str
    """The dataset's folder."""
    out: str
    """The bundle's folder."""
    model: ModelConfig
    training: TrainSpec = TrainSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    workers: WorkerSpec = WorkerSpec()
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        if isinstance(self.model, KmerRidgeConfig) and self.workers.num_workers > 1:
            raise InputError(
                f"workers: num_workers={self.workers.num_workers}, but kmer_ridge is fitted by one worker in one pass; "
                "leave num_workers at 1"
            )


class Trained(NamedTuple):
    """A finished training run."""

    bundle_dir: Path
    metrics: dict[str, Any]
    """As in the bundle's metrics.json."""
    was_done: bool
    """Whether an earlier call had finished it."""


def train(job: TrainJob, *, report: Report = silent) -> Trained:
    """Train the job's model, or go on with it, and return its bundle.

    Raises:
        InputError: the dataset is not whole, or the settings do not fit it.
    """
    dataset_dir, out = Path(job.dataset).absolute(), Path(job.out).absolute()
    job = dataclasses.replace(job, dataset=str(dataset_dir))  # Ray's workers have a working directory of their own
    card = read_card(dataset_dir)
    _check_learnable(job, card)
    check_shift(job.training, card.geometry.margin_bp)
    staging = open_staging(out, _plan(job, card))
    if staging is None:
        return Trained(out, read_json(out / "metrics.json", what="bundle's metrics"), was_done=True)
    verify_dataset(dataset_dir, card)
    with cluster(job.cluster), relayed(report) as remote_report:
        trainer = ray.train.torch.TorchTrainer(
            _learn,
            train_loop_config={"job": job, "report": remote_report},
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.workers.num_workers,
                use_gpu=job.workers.use_gpu,
                resources_per_worker={"CPU": job.workers.threads} | ({"GPU": 1} if job.workers.use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=RAY_TRAIN,
                storage_path=str(staging.path),
                failure_config=ray.train.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=job.training.keep_checkpoints),
            ),
        )
        result = _fit(trainer)
    with result.checkpoint.as_directory() as folder:
        for file in (Path(folder) / "bundle").iterdir():
            shutil.copy(file, staging.path / file.name)
    staging.finish()
    return Trained(out, read_json(out / "metrics.json", what="bundle's metrics"), was_done=False)


def _check_learnable(job: TrainJob, card: Card) -> None:
    """Raise InputError where a dataset holds what the job's network neither reads nor predicts."""
    if card.inputs != Inputs():
        raise InputError(
            f"{card.name}: its rows hold more inputs than one sequence, which no network here reads; "
            "read it with datasets.streams.ExampleStream to train a network of your own"
        )
    with torch.device("meta"):  # to look at it costs no memory
        network = build_network(job.model, geometry=card.geometry, num_tracks=len(card.tracks))
    choose(card.kind, network, job.objective.name)


def _fit(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    """Run the trainer; bad input met by a worker comes back as the InputError it was."""
    try:
        return trainer.fit()
    except ray.train.TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            cause: BaseException | None = failure
            while cause is not None:
                if isinstance(cause, InputError | FloatingPointError):
                    raise InputError(str(cause)) from error
                cause = cause.__cause__
        raise


def _plan(job: TrainJob, card: Card) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    return {
        "dataset": card.digest,
        "name": job.name,
        "model": dataclasses.asdict(job.model),
        "training": dataclasses.asdict(job.training),
        "objective": dataclasses.asdict(job.objective),
        "num_workers": job.workers.num_workers,
        "cisray": __version__,
    }


def _learn(config: dict[str, Any]) -> None:
    """Be one worker: read, learn, and put a checkpoint aside whenever the loop says so."""
    job: TrainJob = config["job"]
    torch.set_num_threads(job.workers.threads)
    card = read_card(Path(job.dataset))
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    workers = Workers(rank, ray.train.torch.get_device(), partial(_add_over_workers, world), world)
    report: Report = config["report"] if rank == 0 else silent
    feed = _feed(job, card, rank=rank, world=world)
    torch.manual_seed(job.training.seed)
    network = build_network(job.model, geometry=card.geometry, num_tracks=len(card.tracks))
    if isinstance(network, KmerRidge):
        _learn_ridge(network, job, card, feed=feed, report=report)
        return
    start_at_means(card.kind, network, [card.statistics["train"][name].mean for name in card.track_names])
    network.to(workers.device)
    wrapped = ray.train.torch.prepare_model(network) if world > 1 else network
    goal = make_goal(card.kind, network, job.objective, num_bins=card.geometry.num_bins)
    learner = Learner(network, spec=job.training, goal=goal, forward=wrapped)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            read_learner(Path(folder) / "learner", learner)
        report(Progress("resume", learner.learned.step, learner.learned.step, "steps"))
    fit(learner, feed, save=partial(_save, job, card, rank), report=report, workers=workers)


def _save(job: TrainJob, card: Card, rank: int, learner: Learner) -> None:
    """Report a checkpoint: the best bundle so far, and the learner as it stands. Every rank calls this."""
    metrics = {
        "history": learner.learned.history,
        "best_epoch": learner.learned.best_epoch,
        "valid.pearson": learner.learned.best_metric,
        "definitions": _definitions(learner.learned.history),
        "num_parameters": sum(weight.numel() for weight in learner.network.parameters()),
    }
    _report_checkpoint(job, card, rank=rank, learner=learner, metrics=metrics)


def _definitions(history: list[dict[str, Any]]) -> dict[str, str]:
    """Return the definitions of the metrics that were measured."""
    return {name: text for name, text in DEFINITIONS.items() if any(f"valid.{name}" in row for row in history)}


def _report_checkpoint(
    job: TrainJob, card: Card, *, rank: int, learner: Learner | KmerRidge, metrics: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            network = learner.evaluated if isinstance(learner, Learner) else learner
            weights = learner.best_weights if isinstance(learner, Learner) else {}
            write_bundle(
                Path(folder) / "bundle",
                weights=weights or network.state_dict(),
                config=job.model,
                card=card,
                metrics=metrics,
                objective=choose(card.kind, network, job.objective.name).objective,
                made_by=_plan(job, card),
            )
            if isinstance(learner, Learner):
                write_learner(Path(folder) / "learner", learner)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _learn_ridge(network: KmerRidge, job: TrainJob, card: Card, *, feed: Feed, report: Report) -> None:
    """Fit the linear baseline: one pass over the data, then one pass over the validation split per penalty."""
    total = feed.steps(0)

    def train_batches() -> Iterator[Batch]:
        for step, (codes, targets) in enumerate(feed.train(0, 0), start=1):
            report(Progress("train", step, total, "steps"))
            yield cut_windows(codes, margin_bp=feed.margin_bp), targets

    def score(model: torch.nn.Module) -> Tensor:
        return torch.tensor(validate(model, feed, workers=Workers())["valid.pearson_per_track"])

    tried = fit_ridge(network, train_batches(), score=score)
    measured = validate(network, feed, workers=Workers())
    metrics = {
        "history": tried,
        "definitions": _definitions([measured]),
        "num_parameters": sum(weight.numel() for weight in network.parameters()),
        **measured,
    }
    _report_checkpoint(job, card, rank=ray.train.get_context().get_world_rank(), learner=network, metrics=metrics)


def _add_over_workers(world: int, value: Tensor) -> Tensor:
    """Sum a float64 tensor over all workers; it stays on its device, so that a GPU's need not be waited for."""
    if world == 1:
        return value
    summed = value.to(ray.train.torch.get_device(), copy=True)
    torch.distributed.all_reduce(summed)
    return summed.to(value.device)


def _feed(job: TrainJob, card: Card, *, rank: int, world: int) -> Feed:
    """Return where this worker's batches come from."""
    dataset_dir, batch_size = Path(job.dataset), job.training.examples_per_step
    train_order = read_order(dataset_dir, card, "train", rank=rank, world=world, seed=job.training.seed)
    valid_order = read_order(dataset_dir, card, "valid", rank=rank, world=world)

    def train_batches(epoch: int, steps_done: int) -> Iterator[Batch]:
        steps = train_order.steps(epoch, batch_size) - steps_done
        batches = read_through_ray(train_order, epoch, card, batch_size=batch_size, rows_seen=steps_done * batch_size)
        for _, batch in zip(range(steps), batches, strict=False):  # range first: no batch is read in vain
            yield batch

    def valid_batches() -> Iterator[Batch]:
        return read_through_ray(valid_order, 0, card, batch_size=job.training.batch_size)

    def steps(epoch: int) -> int:
        return train_order.steps(epoch, batch_size)

    return Feed(train_batches, valid_batches, steps, card.geometry.margin_bp, torch.tensor(card.strand_swap()))


def read_through_ray(order: Order, epoch: int, card: Card, *, batch_size: int, rows_seen: int = 0) -> Iterator[Batch]:
    """Yield an epoch's batches, in order, whose pools Ray Data reads ahead of the training."""
    start = find_position(order, epoch, rows_seen)
    items = [{"pool": json.dumps(pool)} for pool in order.pools(epoch)[start.pool :]]
    if not items:
        return
    pools = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_pools, batch_size=1, num_cpus=0.25
    )
    pools.context.execution_options.preserve_order = True
    tables = pools.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    layout = layout_of(card)
    for rows in cut_batches(tables, batch_size, skip=start.rows):
        examples = decode_examples(rows, layout)
        # copied because Arrow's memory is read-only
        yield torch.from_numpy(examples.codes.copy()), torch.from_numpy(to_float(examples.targets.copy()))


def _read_pools(batch: dict[str, Any]) -> pa.Table:
    """Read the one pool told in a batch of one row."""
    groups, seed = json.loads(batch["pool"][0])
    return read_pool(Pool([RowGroup(*group) for group in groups], seed)).select(["sequence", "target"])
