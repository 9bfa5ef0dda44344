"""The training loop, in three levels: all epochs, one epoch, one step. It knows tensors and callables only."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import AveragedModel

from cisray.errors import InputError
from cisray.progress import Progress, Report
from cisray.training.batches import Batch, augment, one_ahead
from cisray.training.meter import Meter, count_flop
from cisray.training.optimizers import build_average, build_optimizer, learning_rate_at, set_rate
from cisray.training.recompute import recompute_activations
from cisray.training.sharding import clip_gradients, gather, shard, shard_average, whole_on_each, without_sync
from cisray.training.spec import TrainSpec
from cisray.training.tasks import ALONE, Feed, Task, Workers, check_shift
from cisray.training.validation import run_head, validate

REPORT_STEPS = 20


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
        forward: Callable[..., Any] | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self.network = network
        self.spec = spec
        self.average: AveragedModel | None = build_average(network, spec.ema_decay) if spec.ema_decay else None
        if spec.checkpoint_activations != "none":
            recompute_activations(network, spec.checkpoint_activations)
        forward = forward or network
        self._without_sync: Callable[[], AbstractContextManager[None]] = getattr(forward, "no_sync", nullcontext)
        if mesh is not None:
            shard(network, mesh)
            if self.average is not None:
                shard_average(self.average, mesh)
            self._without_sync = partial(without_sync, network)
        self.optimizer = build_optimizer(network, spec)  # last, because splitting makes other parameters
        self.forward: Callable[..., Any] = torch.compile(forward) if spec.compile else forward
        self.learned = Learned()
        self.best_weights: dict[str, Tensor] = {}
        self.saved_step: int | None = None
        """Step of the last checkpoint."""
        self.gradient_norm = torch.tensor(0.0)
        """Of the last step, before it was clipped."""
        self.flop_per_example: float | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network whose metrics and weights count: the running mean where there is one."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    def to(self, device: torch.device) -> None:
        """Move the network and its running mean to a device."""
        self.network.to(device)
        if self.average is not None:
            self.average.to(device)

    def step(self, batch: Batch, feed: Feed, *, workers: Workers, total_steps: int) -> Tensor:
        """Move the weights once and return the loss over all workers' bins with data.

        All randomness of a step comes from (seed, rank, step): a resumed run draws what an undisturbed one would.
        """
        spec, step = self.spec, self.learned.step
        random = torch.Generator().manual_seed(hash((spec.seed, workers.rank, step)) & 0x7FFFFFFF)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))  # for dropout
        batch, task = batch.to(workers.device), feed.tasks[batch.head]
        codes, targets = augment(
            batch.codes,
            batch.targets,
            margin_bp=task.margin_bp,
            shift_bp=spec.shift_bp,
            swap=task.swap if spec.reverse_complement else None,
            random=random,
        )
        rate = learning_rate_at(step, peak=spec.learning_rate, warmup_steps=spec.warmup_steps, total_steps=total_steps)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss = self._add_gradients(Batch(codes, targets, batch.head), task, workers)
        self.gradient_norm = clip_gradients(self.network, spec.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.learned.step += 1
        self.learned.step_in_epoch += 1
        return loss

    def _add_gradients(self, batch: Batch, task: Task, workers: Workers) -> Tensor:
        """Add up the gradients of one step's batches and return its loss; all that was measured weighs alike.

        Not every batch or worker has as many bins with data as the next: a mean of their means would weigh them wrong.
        """
        goal = task.goal
        parts = batch.split(self.spec.batch_size) if self.spec.accumulate_steps > 1 else [batch]
        weights = torch.stack([goal.weights(part.targets).double() for part in parts])  # [parts] or [parts, P]
        total = workers.add(weights.sum(dim=0))
        shares = (task.weight * weights / torch.where(total > 0, total, 1.0)).float()
        loss = torch.zeros((), device=batch.codes.device)
        for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            with nullcontext() if number == len(parts) else self._without_sync():
                with torch.autocast(part.codes.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
                    outputs = run_head(self.forward, part.codes, part.head)
                    mine = (goal.terms(outputs, part.targets) * share).sum()
                (mine * workers.world).backward()  # gradients are averaged over workers, not summed
            loss += mine.detach()
        return loss if workers.world == 1 else workers.add(loss.double()).float()

    def keep_best(self, metric: float) -> None:
        """Copy the weights if this epoch's validation metric is the best so far; NaN is worse than any."""
        metric = -math.inf if math.isnan(metric) else metric
        if metric > self.learned.best_metric or self.learned.best_epoch < 0:
            self.learned.best_metric = metric
            self.learned.best_epoch = self.learned.epoch
            self.best_weights = gather(self.evaluated.state_dict())

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better."""
        learned = self.learned
        waited = learned.epoch - 1 - learned.best_epoch
        return learned.epoch >= self.spec.epochs or (learned.best_epoch >= 0 and waited >= self.spec.patience)


def fit(
    learner: Learner,
    feed: Feed,
    *,
    save: Callable[[Learner], None],
    report: Report,
    workers: Workers = ALONE,
    until_epoch: int | None = None,
) -> None:
    """Train from wherever the learner stands until it is finished; `save` is called at every checkpoint.

    With `until_epoch` it pauses when that many epochs are done; where it pauses changes nothing of what is learned.

    Raises:
        InputError: the shift exceeds the margin that the dataset stores.
        FloatingPointError: the loss is not a number any more.
    """
    for task in feed.tasks.values():
        check_shift(learner.spec, task.margin_bp)
    total_steps = sum(feed.steps(epoch) for epoch in range(learner.spec.epochs))
    if total_steps == 0:
        raise InputError(
            "training: the train split fills no batch for every worker; use fewer workers or a smaller batch_size"
        )
    learner.to(workers.device)

    def save_sound(learner: Learner) -> None:
        save(learner)
        learner.saved_step = learner.learned.step

    while not learner.finished and (until_epoch is None or learner.learned.epoch < until_epoch):
        row = _train_epoch(learner, feed, workers=workers, total_steps=total_steps, save=save_sound, report=report)
        _share_buffers(learner.network, workers)
        if learner.average is not None:
            _share_buffers(learner.evaluated, workers)
        with whole_on_each(learner.evaluated):
            row |= validate(learner.evaluated, feed, workers=workers)
        learned = learner.learned
        learner.keep_best(row["valid.pearson"])
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        del row["examples_per_s"]  # a run's speed is no part of its result
        learned.history.append({"epoch": learned.epoch, "step": learned.step} | row)
        learned.epoch += 1
        learned.step_in_epoch = 0
        learned.losses = []
        report(Progress("valid", learned.step, total_steps, "steps", figures | {"epoch": learned.epoch}))
        save_sound(learner)


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
    learned, spec = learner.learned, learner.spec
    losses = list(torch.tensor(learned.losses, device=workers.device).unbind())
    unproven: list[tuple[Tensor, Tensor]] = []
    meter = Meter(device=workers.device, world=workers.world, precision=spec.precision)
    saved_at = time.monotonic()
    batches = meter.timed(one_ahead(feed.train(learned.epoch, learned.step_in_epoch), workers.device))
    for batch in batches:
        losses.append(learner.step(batch, feed, workers=workers, total_steps=total_steps))
        unproven.append((losses[-1], learner.gradient_norm))
        at_report = learned.step % REPORT_STEPS == 0 or learned.step == total_steps
        due = learned.step % spec.checkpoint_steps == 0
        if spec.checkpoint_minutes and learned.step % REPORT_STEPS == 0:
            due |= _agreed(time.monotonic() - saved_at >= 60 * spec.checkpoint_minutes, workers)
        if at_report or due:
            _check_sound(learner, unproven, feed)
            unproven = []
        if at_report:
            figures = {
                "train.loss": float(torch.stack(losses[-REPORT_STEPS:]).mean()),
                "learning_rate": learning_rate_at(
                    learned.step - 1, peak=spec.learning_rate, warmup_steps=spec.warmup_steps, total_steps=total_steps
                ),
                "gradient_norm": float(learner.gradient_norm),
            }
            flop = _flop_per_example(learner, batch, feed)
            report(Progress("train", learned.step, total_steps, "steps", figures | meter.figures(flop)))
        if due and learned.step_in_epoch < feed.steps(learned.epoch):
            learned.losses = torch.stack(losses).tolist()
            save(learner)
            saved_at = time.monotonic()
    _check_sound(learner, unproven, feed)
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    return {"train.loss": mean, "examples_per_s": meter.examples_per_s}


def _agreed(wanted: bool, workers: Workers) -> bool:  # noqa: FBT001 - the question is the argument
    """Return what the first worker wants: the clocks of the others may say otherwise."""
    return bool(workers.add(torch.tensor(float(wanted and workers.rank == 0), dtype=torch.float64)) > 0)


def _flop_per_example(learner: Learner, batch: Batch, feed: Feed) -> float:
    """Count the arithmetic of one example, once; 0 where it cannot be counted."""
    if learner.flop_per_example is None:
        window_bp = batch.codes.shape[1] - 2 * feed.tasks[batch.head].margin_bp
        learner.flop_per_example = count_flop(learner.network, window_bp, head=batch.head)
    return learner.flop_per_example


def _check_sound(learner: Learner, steps: list[tuple[Tensor, Tensor]], feed: Feed) -> None:
    """Raise FloatingPointError at the first of the last steps whose loss or gradient is not finite."""
    if not steps:
        return
    values = torch.stack([torch.stack([part.float() for part in step]) for step in steps]).tolist()
    learned = learner.learned
    for index, (loss, norm) in enumerate(values, start=1 - len(values)):
        if math.isfinite(loss) and math.isfinite(norm):
            continue
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
        in_epoch = learned.step_in_epoch + index
        saved = "there is no checkpoint before it"
        if learner.saved_step is not None:
            saved = f"the last checkpoint before it is of step {learner.saved_step}"
        windows = "" if feed.windows is None else f", of the windows {feed.windows(learned.epoch, in_epoch - 1)}"
        raise FloatingPointError(
            f"the {what} at step {learned.step + index}; lower training.learning_rate, or look for extreme targets in "
            f"the dataset's report. It is step {in_epoch} of epoch {learned.epoch}{windows}; {saved}"
        )


@torch.no_grad()
def _share_buffers(network: nn.Module, workers: Workers) -> None:
    """Give every worker the running statistics of the first, which are the ones that are saved."""
    for buffer in network.buffers():
        value = buffer.double()
        buffer.copy_(workers.add(value if workers.rank == 0 else torch.zeros_like(value)))
