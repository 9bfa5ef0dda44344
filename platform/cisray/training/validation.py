"""Measure a network on the validation split, over all workers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cisray.training.batches import Batch, cut_windows
from cisray.training.metrics import ScoreHistogram, TrackSums, mean_present
from cisray.training.tasks import ALONE, Feed, Task, Workers


@torch.no_grad()
def validate(network: nn.Module, feed: Feed, *, workers: Workers = ALONE) -> dict[str, Any]:
    """Return the validation split's loss and metrics; "valid.pearson" is the mean over tracks that decides.

    With several heads, each head's figures stand under its name, and those without one are means over heads. Metrics
    are as training.metrics.DEFINITIONS says, on targets as stored (scaled and soft-clipped).
    """
    network.eval()
    measured = {head: _Measured(task) for head, task in feed.tasks.items()}
    for batch in feed.valid():
        batch = batch.to(workers.device)
        task = feed.tasks[batch.head]
        outputs = run_head(network, cut_windows(batch.codes, margin_bp=task.margin_bp), batch.head)
        measured[batch.head].update(outputs, batch)
    rows = {head: one.row(workers) for head, one in measured.items()}
    if None in rows:
        return {f"valid.{name}": value for name, value in rows[None].items()}
    means = {
        f"valid.{name}": _mean(rows, name)
        for name in next(iter(rows.values()))
        if all(isinstance(row.get(name), float) for row in rows.values())
    }
    return means | {f"valid.{head}.{name}": value for head, row in rows.items() for name, value in row.items()}


def run_head(network: Any, codes: Tensor, head: str | None) -> Any:
    """Return what a network makes of codes [B, L], by the head that is named."""
    return network(codes) if head is None else network(codes, head)


class _Measured:
    """Running sums of one head's loss and metrics."""

    def __init__(self, task: Task) -> None:
        num_tracks = len(task.swap)
        self.goal = task.goal
        self.tracks = TrackSums(num_tracks)  # a rank that was dealt no row still takes part in the sum
        self.told_apart = ScoreHistogram(num_tracks) if task.goal.labels else None
        self.loss: Tensor | float = 0.0
        """Means times their weights, and the weights: float64 [2, P]."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Add one batch."""
        goal, targets = self.goal, batch.targets
        predictions = goal.predict(outputs)
        self.tracks.update(predictions, targets)
        if self.told_apart is not None:
            self.told_apart.update(torch.logit(predictions.double(), eps=1e-15), targets)
        weights = goal.weights(targets).double().cpu().reshape(-1)
        terms = goal.terms(outputs, targets).double().cpu().reshape(-1)
        self.loss = self.loss + torch.stack([terms * weights, weights])

    def row(self, workers: Workers) -> dict[str, Any]:
        """Return the figures of all workers' batches together; metrics per track come last."""
        self.tracks.reduce(workers.add)
        per_track = {"pearson": self.tracks.pearson(), "r2": self.tracks.r2()}
        if self.told_apart is not None:
            self.told_apart.reduce(workers.add)
            per_track |= {"auroc": self.told_apart.auroc(), "average_precision": self.told_apart.average_precision()}
        row: dict[str, Any] = {"loss": self._loss(workers)}
        row |= {name: mean_present(values) for name, values in per_track.items()}
        return row | {f"{name}_per_track": values.tolist() for name, values in per_track.items()}

    def _loss(self, workers: Workers) -> float:
        """Return the loss over all workers' rows; how many means it has is not known to one that had no row."""
        terms = self.goal.weights(torch.zeros(0, 1, len(self.tracks.num_bins()))).numel()
        own = self.loss if isinstance(self.loss, Tensor) else torch.zeros(2, terms, dtype=torch.float64)
        totals, weights = workers.add(own)
        return float((totals / weights.clamp(min=1e-300)).sum()) if bool((weights > 0).any()) else math.nan


def _mean(rows: Mapping[str | None, Mapping[str, Any]], name: str) -> float:
    """Return the mean of a figure over the heads that have it; a loss that is no number stays none."""
    values = [row[name] for row in rows.values() if name == "loss" or not math.isnan(row[name])]
    return math.fsum(values) / len(values) if values else math.nan
