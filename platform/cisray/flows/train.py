"""Train a network on a dataset: Ray Data reads, Ray Train's workers learn, checkpoints carry a run over any death."""

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import ray.train.torch
import torch

from cisray import __version__
from cisray.bundle import SHALLOW, bundle_digest
from cisray.datasets.card import Card, Inputs, read_card
from cisray.datasets.schema import verify_dataset
from cisray.errors import InputError
from cisray.files import folder_written_whole, full_disk_told, read_json, value_digest, write_json
from cisray.flows.cluster import cluster, relayed
from cisray.flows.learn import build_for, learn
from cisray.flows.lost import DEATHS
from cisray.flows.publishing import open_output, published
from cisray.flows.resources import Need, nodes_here, room_for
from cisray.flows.shards import PLAN_NAME, RAY_TRAIN
from cisray.flows.train_job import WORKER_PROCESS, TrainJob
from cisray.flows.visibility import check_visible
from cisray.goals import choose
from cisray.progress import Report, silent
from cisray.training.tasks import check_shift

# A lost worker restarts its group from the last checkpoint, this often.
MOST_FAILURES = 3
READER = Need(cpus=1.0)


class Trained(NamedTuple):
    """A finished training run."""

    bundle_dir: Path
    metrics: dict[str, Any]
    """As in the bundle's metrics.json."""
    was_done: bool
    """Whether an earlier call had finished it."""
    finished: bool = True
    """Whether the bundle is there; a run that `until_epoch` paused has only checkpoints, and goes on from them."""


def train(
    job: TrainJob, *, start_dir: Path | None = None, until_epoch: int | None = None, report: Report = silent
) -> Trained:
    """Train the job's model, or go on with it, and return its bundle.

    Args:
        job: what to train.
        start_dir: the folder of the bundle that `job.start.model` names.
        until_epoch: if given, pause when that many epochs are done; a later call goes on from there.
        report: told every few steps.

    Raises:
        InputError: a dataset is not whole, the settings do not fit it, or the cluster can never hold the workers.
    """
    job = job.with_local_datasets()
    cards = {head: read_card(Path(path)) for head, path in job.sources.items()}
    _check_learnable(job, cards)
    plan = train_plan(job, cards, start_dir)
    staging = open_output(job.out, plan)
    if staging is None:
        out = published(job.out)
        return Trained(out, read_json(out / "metrics.json", what="bundle's metrics"), was_done=True)
    for head, path in job.sources.items():
        verify_dataset(Path(path), cards[head])
    with cluster(job.cluster), relayed(report) as remote_report:
        job = dataclasses.replace(job, workers=job.workers.on(nodes_here()))
        # Ray Data reads on every node, whichever the workers are on
        check_visible(
            [*map(Path, job.sources.values()), *([start_dir] if start_dir else [])], staging.path, need=READER
        )
        trainer = ray.train.torch.TorchTrainer(
            learn,
            train_loop_config={
                "job": job,
                "start_dir": start_dir,
                "plan": plan,
                "until_epoch": until_epoch,
                "report": remote_report,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.workers.num_workers,
                use_gpu=job.workers.use_gpu,
                resources_per_worker=job.workers.need.bundle(),
            ),
            run_config=ray.train.RunConfig(
                name=RAY_TRAIN,
                storage_path=str(staging.path),
                failure_config=ray.train.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=job.training.keep_checkpoints),
            ),
        )
        with room_for(job.workers.request(), process=WORKER_PROCESS, report=remote_report):
            result = _fit(trainer)
    measured = dict(result.metrics)
    if not measured.pop("finished"):
        staging.lock.close()
        return Trained(staging.out, measured, was_done=False, finished=False)
    with full_disk_told(staging.out), result.checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / "bundle", staging.path, dirs_exist_ok=True)
    staging.finish()
    out = published(job.out)
    return Trained(out, read_json(out / "metrics.json", what="bundle's metrics"), was_done=False)


def take_over(source_out: Path, job: TrainJob, start_dir: Path | None) -> None:
    """Let a job that has not begun go on from the checkpoints of another's paused run, with its own settings."""
    out = Path(job.out).absolute()
    cards = {head: read_card(Path(path)) for head, path in job.sources.items()}
    with folder_written_whole(out.with_name(f"{out.name}.unfinished")) as aside:
        shutil.copytree(source_out.with_name(f"{source_out.name}.unfinished") / RAY_TRAIN, aside / RAY_TRAIN)
        write_json(aside / PLAN_NAME, {"digest": value_digest(train_plan(job, cards, start_dir))})


def _check_learnable(job: TrainJob, cards: Mapping[str | None, Card]) -> None:
    """Raise InputError where a dataset holds what the job's network neither reads nor predicts."""
    for card in cards.values():
        if card.inputs != Inputs():
            raise InputError(
                f"{card.name}: its rows hold more inputs than one sequence, which no network here reads; "
                "read it with datasets.streams.ExampleStream to train a network of your own"
            )
    job.objective.check_names({head: card.track_names for head, card in cards.items()})
    # to look at a network on the meta device costs no memory; a baseline has none yet
    with nullcontext() if isinstance(job.model, SHALLOW) else torch.device("meta"):
        network = build_for(job, cards)
    for card in cards.values():
        choose(card.kind, network, job.objective.name)
        check_shift(job.training, card.geometry.margin_bp)


def _fit(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    """Run the trainer; bad input met by a worker comes back as the InputError it was."""
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            cause: BaseException | None = failure
            while cause is not None:
                if isinstance(cause, InputError | FloatingPointError):
                    raise (cause if isinstance(cause, InputError) else InputError(str(cause))) from error
                if isinstance(cause, DEATHS):
                    raise cause from error
                cause = cause.__cause__
        raise
    if result.return_value is not None:
        raise result.return_value
    return result


def train_plan(job: TrainJob, cards: Mapping[str | None, Card], start_dir: Path | None) -> dict[str, Any]:
    """Return what makes two runs the same run."""
    data: Any = {
        head: {"digest": card.digest, "weight": job.datasets[head].weight} for head, card in cards.items() if head
    }
    start = dataclasses.asdict(job.start)
    if start_dir is not None:
        start["digest"] = bundle_digest(start_dir)
    return {
        "dataset": data or cards[None].digest,
        "name": job.name,
        "model": dataclasses.asdict(job.model),
        "start": start,
        "training": dataclasses.asdict(job.training),
        "objective": dataclasses.asdict(job.objective),
        "num_workers": job.workers.num_workers,
        "cisray": __version__,
    }
