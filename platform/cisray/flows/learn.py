"""Be one worker of a training: start a network, read its share of the data, learn, and put checkpoints aside."""

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from cisray.baselines.estimators import ShallowModel, TableModel
from cisray.baselines.fitting import fit_shallow, fit_tables
from cisray.baselines.kmer_ridge import KmerRidge, fit_ridge
from cisray.bundle import build_network, head_tracks, shared_geometry, write_bundle
from cisray.datasets.card import Card, read_card
from cisray.errors import InputError
from cisray.files import full_disk_told
from cisray.flows.features import describe_dataset
from cisray.flows.feed import Source, make_feed
from cisray.flows.spread import call_for_each
from cisray.flows.train_job import TrainJob
from cisray.goals import choose, make_goal, start_at_means
from cisray.progress import Progress, Report, silent
from cisray.remote import place_of_out
from cisray.training.batches import cut_windows
from cisray.training.checkpoints import read_learner, write_learner
from cisray.training.loop import Learner, fit
from cisray.training.meter import count_flop
from cisray.training.metrics import DEFINITIONS
from cisray.training.sharding import gather, mesh_of_workers
from cisray.training.tasks import Feed, Task, Workers
from cisray.training.validation import validate
from cisray.transfer import Started, bare_weights, start_from


def build_for(job: TrainJob, cards: Mapping[str | None, Card]) -> nn.Module:
    """Build the job's network with fresh weights; raise InputError where windows or bins of datasets differ."""
    network = build_network(job.model, geometry=shared_geometry(cards), num_tracks=head_tracks(cards))
    if isinstance(network, ShallowModel):
        network.aim_at(next(iter(cards.values())).kind)
    return network


class _Run(NamedTuple):
    """What one worker learns, and what the bundle will say of it."""

    job: TrainJob
    cards: Mapping[str | None, Card]
    rank: int
    started: Started | None
    plan: dict[str, Any]


def learn(config: dict[str, Any]) -> InputError | None:
    """Be one worker: read, learn, and put a checkpoint aside whenever the loop says so.

    Returns why it cannot go on, where that would be so at every restart; None where it is done.
    """
    job: TrainJob = config["job"]
    torch.set_num_threads(job.workers.threads)
    cards = {head: read_card(Path(path)) for head, path in job.sources.items()}
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    workers = Workers(rank, ray.train.torch.get_device(), partial(_add_over_workers, world), world)
    report: Report = config["report"] if rank == 0 else silent
    torch.manual_seed(job.training.seed)
    try:
        network, started = _start(job, cards, config["start_dir"])
        feed = make_feed(sources_of(job, cards), tasks_of(job, cards, network), job.training, rank=rank, world=world)
        run = _Run(job, cards, rank, started, config["plan"])
        if isinstance(network, KmerRidge | ShallowModel):
            _learn_baseline(network, run, feed=feed, report=report)
        else:
            _learn_network(network, run, workers, feed=feed, until_epoch=config["until_epoch"], report=report)
    except (FloatingPointError, InputError) as error:
        if world > 1:
            raise  # the others may be waiting for this worker
        return error if isinstance(error, InputError) else InputError(str(error))
    return None


def _learn_network(
    network: nn.Module, run: _Run, workers: Workers, *, feed: Feed, until_epoch: int | None, report: Report
) -> None:
    """Fit a network, from the last checkpoint on where there is one."""
    learner = _make_learner(network, run, workers)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            read_learner(Path(folder) / "learner", learner)
        report(Progress("resume", learner.learned.step, learner.learned.step, "steps"))
    fit(learner, feed, save=partial(_save, run), report=report, workers=workers, until_epoch=until_epoch)


def _start(job: TrainJob, cards: Mapping[str | None, Card], start_dir: Path | None) -> tuple[nn.Module, Started | None]:
    """Return the network that learning begins with: fresh, or from a bundle; new heads start at their tracks' means."""
    network = build_for(job, cards)
    started = None
    if start_dir is not None:
        started = start_from(
            network,
            job.start,
            bundle_dir=start_dir,
            cards=cards,
            build=partial(build_for, job, cards),
            seed=job.training.seed,
        )
    for head, card in cards.items():
        if not isinstance(network, KmerRidge | ShallowModel) and (started is None or head in started.new_heads):
            means = [card.statistics["train"][name].mean for name in card.track_names]
            start_at_means(card.kind, network, means, name=head)
    return network, started


def sources_of(job: TrainJob, cards: Mapping[str | None, Card]) -> dict[str | None, Source]:
    """Return what each head's batches are read from."""
    weights = {head: one.weight for head, one in job.datasets.items()}
    return {head: Source(Path(path), cards[head], weights.get(head or "")) for head, path in job.sources.items()}


def tasks_of(job: TrainJob, cards: Mapping[str | None, Card], network: nn.Module) -> dict[str | None, Task]:
    """Return what each head learns from its dataset."""
    tasks = {}
    for head, card in cards.items():
        num_bins = card.geometry.num_bins
        goal = make_goal(card.kind, network, job.objective, num_bins=num_bins, tracks=card.track_names)
        swap = torch.tensor(card.strand_swap())
        weight = job.objective.head_weights.get(head or "", 1.0)
        tasks[head] = Task(swap, card.geometry.margin_bp, goal, weight)
    return tasks


def _make_learner(network: nn.Module, run: _Run, workers: Workers) -> Learner:
    """Return a learner whose gradients are averaged over workers; one step leaves out the heads of other datasets."""
    spec, world = run.job.training, workers.world
    if run.job.workers.strategy == "shard" and world > 1:
        card = next(iter(run.cards.values()))
        flop = count_flop(network, card.geometry.window_bp, head=next(iter(run.cards)))  # not of a split network
        learner = Learner(network, spec=spec, mesh=mesh_of_workers(workers.device))
        learner.flop_per_example = flop
        return learner
    network.to(workers.device)
    if world == 1:
        return Learner(network, spec=spec)
    settings = {"find_unused_parameters": len(run.cards) > 1}
    wrapped = ray.train.torch.prepare_model(network, parallel_strategy_kwargs=settings)
    return Learner(network, spec=spec, forward=wrapped)


def _save(run: _Run, learner: Learner) -> None:
    """Report a checkpoint: the best bundle so far, and the learner as it stands. Every rank calls this."""
    metrics = {
        "history": learner.learned.history,
        "best_epoch": learner.learned.best_epoch,
        "valid.pearson": learner.learned.best_metric,
        "definitions": _definitions(learner.learned.history),
        "num_parameters": sum(weight.numel() for weight in learner.network.parameters()),
    }
    _report_checkpoint(run, learner=learner, metrics=metrics)


def _definitions(history: list[dict[str, Any]]) -> dict[str, str]:
    """Return the definitions of the metrics that were measured."""
    return {name: text for name, text in DEFINITIONS.items() if any(f"valid.{name}" in row for row in history)}


def _report_checkpoint(run: _Run, *, learner: Learner | KmerRidge | ShallowModel, metrics: dict[str, Any]) -> None:
    """Write a bundle and a learner, and hand both to Ray; every rank takes part, and the first one writes."""
    network = learner.evaluated if isinstance(learner, Learner) else learner
    if isinstance(learner, Learner) and learner.learned.best_epoch >= 0:
        weights = learner.best_weights
    else:
        weights = gather(network.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if isinstance(learner, Learner):
            write_learner(Path(folder) / "learner", learner, first=run.rank == 0)
        if run.rank == 0:
            kind = next(iter(run.cards.values())).kind
            write_bundle(
                Path(folder) / "bundle",
                weights=bare_weights(network, weights),
                config=run.job.model,
                cards=run.cards,
                metrics=metrics,
                objective=choose(kind, network, run.job.objective.name).objective,
                made_by=run.plan | ({} if run.started is None else {"started": run.started.facts}),
            )
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        finished = learner.finished if isinstance(learner, Learner) else True
        with full_disk_told(place_of_out(run.job.out)):  # which is where Ray takes the checkpoint
            ray.train.report(metrics | {"finished": finished}, checkpoint=checkpoint)


def _learn_baseline(network: KmerRidge | ShallowModel, run: _Run, *, feed: Feed, report: Report) -> None:
    """Fit a baseline to the training split, in one pass or to its features; the validation split chooses settings."""
    total, margin_bp = feed.steps(0), feed.tasks[None].margin_bp

    def train_batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(feed.train(0, 0), start=1):
            report(Progress("train", step, total, "steps"))
            yield cut_windows(batch.codes, margin_bp=margin_bp), batch.targets

    def valid_batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in feed.valid():
            yield cut_windows(batch.codes, margin_bp=margin_bp), batch.targets

    def score(model: nn.Module) -> Tensor:
        return torch.tensor(validate(model, feed)["valid.pearson_per_track"])

    kind, seed = run.cards[None].kind, run.job.training.seed
    if isinstance(network, KmerRidge):
        tried = fit_ridge(network, train_batches(), score=score)
    elif isinstance(network, TableModel):
        spec = run.job.cluster
        tables = describe_dataset(network.features, sources_of(run.job, run.cards)[None], cluster=spec, report=report)
        spread = partial(call_for_each, cluster=spec, threads=run.job.workers.threads)
        tried = fit_tables(network, tables.train, tables.valid, kind=kind, seed=seed, spread=spread)
    else:
        tried = fit_shallow(network, train_batches(), valid_batches(), kind=kind, seed=seed)
    measured = validate(network, feed)
    metrics = {
        "history": tried,
        "definitions": _definitions([measured]),
        "num_parameters": sum(weight.numel() for weight in network.parameters()),
        **measured,
    }
    _report_checkpoint(run, learner=network, metrics=metrics)


def _add_over_workers(world: int, value: Tensor) -> Tensor:
    """Sum a float64 tensor over all workers; it stays on its device, so that a GPU's need not be waited for."""
    if world == 1:
        return value
    summed = value.to(ray.train.torch.get_device(), copy=True)
    torch.distributed.all_reduce(summed)
    return summed.to(value.device)
