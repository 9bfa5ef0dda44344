"""The training loop, in three levels: all epochs, one epoch, one step. It knows tensors and callables only."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.progress import Progress, Report
from cisray.training.batches import augment, cut_windows
from cisray.training.metrics import ScoreHistogram, TrackSums, mean_present
from cisray.training.objectives import poisson_loss
from cisray.training.optimizers import build_adamw, learning_rate_at

REPORT_STEPS = 20

Batch = tuple[Tensor, Tensor]
"""Codes uint8 [B, L + 2 margin] and targets float32 [B, N, T]."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSpec:
    """How a network learns."""

    epochs: int = 10
    batch_size: int = 32
    """Examples per worker and step."""
    learning_rate: float = 2e-3
    """Peak of the schedule: linear warm-up, then cosine decay to 1% of it."""
    warmup_steps: int = 100
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    """Largest norm of a step's gradient."""
    reverse_complement: bool = True
    """Read every second training example, at random, on the other strand."""
    shift_bp: int = 0
    """Largest random shift of a training example; at most the dataset's margin."""
    patience: int = 5
    """Epochs without a better validation metric before training stops."""
    checkpoint_steps: int = 200
    """Steps between checkpoints; the end of an epoch makes one too."""
    precision: Literal["float32", "bf16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip_norm", "patience", "checkpoint_steps"):
            if getattr(self, name) <= 0:
                raise InputError(f"training: {name}={getattr(self, name)}; wanted a positive number")
        for name in ("warmup_steps", "weight_decay", "shift_bp"):
            if getattr(self, name) < 0:
                raise InputError(f"training: {name}={getattr(self, name)}; wanted zero or more")


class Goal(NamedTuple):
    """What a network's outputs mean, and what is minimised."""

    loss: Callable[[Any, Tensor], Tensor] = poisson_loss
    """Of outputs and targets [B, N, T], NaN where nothing was measured: a mean over what was."""
    predict: Callable[[Any], Tensor] = Tensor.float
    """Turns outputs into predictions [B, N, T]: rates, probabilities or numbers."""
    labels: bool = False
    """Whether targets are labels: validation then measures how well they are told apart, too."""


COVERAGE = Goal()


class Feed(NamedTuple):
    """Where batches come from."""

    train: Callable[[int, int], Iterator[Batch]]
    """Batches of an epoch, from after a number of steps."""
    valid: Callable[[], Iterator[Batch]]
    steps: Callable[[int], int]
    """Steps of an epoch."""
    margin_bp: int
    swap: Tensor
    """For each track its partner on the other strand, [T]."""


class Workers(NamedTuple):
    """This worker among all: its rank, its device, and a sum over workers."""

    rank: int = 0
    device: torch.device = torch.device("cpu")
    add: Callable[[Tensor], Tensor] = lambda value: value


ALONE = Workers()


@dataclasses.dataclass
class Learned:
    """What a run has learned so far: all that a checkpoint holds beside the weights and the optimizer."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_metric: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """A row per finished epoch: losses, metric per track, rates."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """Losses of the unfinished epoch's steps, up to the last checkpoint."""


class Learner:
    """A network, its optimizer and its progress, moved on by `fit`."""

    def __init__(
        self,
        network: nn.Module,
        *,
        spec: TrainSpec,
        goal: Goal = COVERAGE,
        forward: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.network = network
        self.goal = goal
        self.forward = forward or network
        self.spec = spec
        self.optimizer = build_adamw(network, learning_rate=spec.learning_rate, weight_decay=spec.weight_decay)
        self.learned = Learned()
        self.best_weights: dict[str, Tensor] = {}

    def step(self, batch: Batch, feed: Feed, *, workers: Workers, total_steps: int) -> Tensor:
        """Move the weights once and return the loss.

        All randomness of a step comes from (seed, rank, step): a resumed run draws what an undisturbed one would.
        """
        spec, step = self.spec, self.learned.step
        random = torch.Generator().manual_seed(hash((spec.seed, workers.rank, step)) & 0x7FFFFFFF)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))  # for dropout
        codes, targets = (part.to(workers.device, non_blocking=True) for part in batch)
        swap = feed.swap if spec.reverse_complement else None
        codes, targets = augment(
            codes, targets, margin_bp=feed.margin_bp, shift_bp=spec.shift_bp, swap=swap, random=random
        )
        rate = learning_rate_at(step, peak=spec.learning_rate, warmup_steps=spec.warmup_steps, total_steps=total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(workers.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            loss = self.goal.loss(self.forward(codes), targets)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), spec.clip_norm)
        self.optimizer.step()
        self.learned.step += 1
        self.learned.step_in_epoch += 1
        return loss.detach()

    def keep_best(self, metric: float) -> None:
        """Copy the weights if this epoch's validation metric is the best so far; NaN is worse than any."""
        metric = -math.inf if math.isnan(metric) else metric
        if metric > self.learned.best_metric or not self.best_weights:
            self.learned.best_metric = metric
            self.learned.best_epoch = self.learned.epoch
            self.best_weights = {name: weight.cpu().clone() for name, weight in self.network.state_dict().items()}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better."""
        learned = self.learned
        waited = learned.epoch - 1 - learned.best_epoch
        return learned.epoch >= self.spec.epochs or (learned.best_epoch >= 0 and waited >= self.spec.patience)


def check_shift(spec: TrainSpec, margin_bp: int) -> None:
    """Raise InputError where examples would be shifted by more than the margin that the dataset stores."""
    if spec.shift_bp > margin_bp:
        raise InputError(
            f"training: shift_bp={spec.shift_bp}, but the dataset stores a margin of {margin_bp} bp; "
            "lower the shift, or build the dataset with a larger geometry.margin_bp"
        )


def fit(
    learner: Learner,
    feed: Feed,
    *,
    save: Callable[[Learner], None],
    report: Report,
    workers: Workers = ALONE,
) -> None:
    """Train from wherever the learner stands until it is finished; `save` is called at every checkpoint.

    Raises:
        InputError: the shift exceeds the margin that the dataset stores.
        FloatingPointError: the loss is not a number any more.
    """
    check_shift(learner.spec, feed.margin_bp)
    total_steps = sum(feed.steps(epoch) for epoch in range(learner.spec.epochs))
    if total_steps == 0:
        raise InputError(
            "training: the train split fills no batch for every worker; use fewer workers or a smaller batch_size"
        )
    learner.network.to(workers.device)
    while not learner.finished:
        row = _train_epoch(learner, feed, workers=workers, total_steps=total_steps, save=save, report=report)
        _share_buffers(learner.network, workers)
        row |= validate(learner.network, feed, workers=workers, goal=learner.goal)
        learned = learner.learned
        learner.keep_best(row["valid.pearson"])
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        del row["examples_per_s"]  # a run's speed is no part of its result
        learned.history.append({"epoch": learned.epoch, "step": learned.step} | row)
        learned.epoch += 1
        learned.step_in_epoch = 0
        learned.losses = []
        report(Progress("valid", learned.step, total_steps, "steps", figures | {"epoch": learned.epoch}))
        save(learner)


def _train_epoch(
    learner: Learner,
    feed: Feed,
    *,
    workers: Workers,
    total_steps: int,
    save: Callable[[Learner], None],
    report: Report,
) -> dict[str, Any]:
    """Finish the epoch that the learner stands in, and return its mean loss and rate."""
    learner.network.train()
    learned = learner.learned
    losses = list(torch.tensor(learned.losses, device=workers.device).unbind())
    examples, started = 0, time.monotonic()
    for batch in feed.train(learned.epoch, learned.step_in_epoch):
        losses.append(learner.step(batch, feed, workers=workers, total_steps=total_steps))
        examples += len(batch[0])
        if learned.step % REPORT_STEPS == 0 or learned.step == total_steps:
            loss = float(torch.stack(losses[-REPORT_STEPS:]).mean())
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {learned.step}; lower training.learning_rate, or look for extreme "
                    "targets in the dataset's report"
                )
            rate = examples / (time.monotonic() - started)
            figures = {
                "train.loss": loss,
                "learning_rate": learner.optimizer.param_groups[0]["lr"],
                "examples_per_s": rate,
            }
            report(Progress("train", learned.step, total_steps, "steps", figures))
        if learned.step % learner.spec.checkpoint_steps == 0 and learned.step_in_epoch < feed.steps(learned.epoch):
            learned.losses = torch.stack(losses).tolist()
            save(learner)
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    return {"train.loss": mean, "examples_per_s": examples / max(1e-9, time.monotonic() - started)}


@torch.no_grad()
def _share_buffers(network: nn.Module, workers: Workers) -> None:
    """Give every worker the running statistics of the first, which are the ones that are saved."""
    for buffer in network.buffers():
        value = buffer.double()
        buffer.copy_(workers.add(value if workers.rank == 0 else torch.zeros_like(value)))


@torch.no_grad()
def validate(network: nn.Module, feed: Feed, *, workers: Workers, goal: Goal = COVERAGE) -> dict[str, Any]:
    """Return the validation split's loss and metrics; "valid.pearson" is the mean over tracks that decides.

    Metrics are as training.metrics.DEFINITIONS says, on targets as stored (scaled and soft-clipped).
    """
    network.eval()
    sums = TrackSums(len(feed.swap))  # a rank that was dealt no row group still takes part in the sum
    told_apart = ScoreHistogram(len(feed.swap)) if goal.labels else None
    loss = torch.zeros(2, dtype=torch.float64)  # sum over bins with data, and their number
    for codes, targets in feed.valid():
        codes, targets = codes.to(workers.device), targets.to(workers.device)
        outputs = network(cut_windows(codes, margin_bp=feed.margin_bp))
        sums.update(goal.predict(outputs), targets)
        if told_apart is not None:
            told_apart.update(torch.logit(goal.predict(outputs).double(), eps=1e-9), targets)
        bins = (~torch.isnan(targets)).sum().double().cpu()
        loss += torch.stack([goal.loss(outputs, targets).double().cpu() * bins, bins])
    sums.reduce(workers.add)
    loss = workers.add(loss)
    per_track = {"pearson": sums.pearson(), "r2": sums.r2()}
    if told_apart is not None:
        told_apart.reduce(workers.add)
        per_track |= {"auroc": told_apart.auroc(), "average_precision": told_apart.average_precision()}
    row: dict[str, Any] = {"valid.loss": float(loss[0] / loss[1])}
    for name, values in per_track.items():
        row[f"valid.{name}"] = mean_present(values)
    for name, values in per_track.items():
        row[f"valid.{name}_per_track"] = values.tolist()
    return row
