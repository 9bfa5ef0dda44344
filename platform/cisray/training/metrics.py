"""Metrics from running sums: exact over any number of batches and workers, in memory that does not grow."""

from collections.abc import Callable

import torch
from torch import Tensor

DEFINITIONS = {
    "pearson": "Pearson correlation of prediction and measurement per track, over all bins with data of the split",
    "r2": "1 - (sum of squared errors) / (sum of squares about the mean) per track, over the same bins",
    "pearson_log1p": "the same correlation after log(1 + x) of both; predictions below 0 count as 0",
}


class TrackSums:
    """Six sums per track, float64 [6, T]: bins, x, y, xx, yy, xy, for x the prediction and y the measurement."""

    def __init__(self, num_tracks: int) -> None:
        self.sums = torch.zeros(6, num_tracks, dtype=torch.float64)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add the bins of [B, N, T] predictions and targets; a bin whose target is NaN is left out."""
        present = ~torch.isnan(targets)
        x = torch.where(present, predictions, 0).double()
        y = torch.where(present, targets, 0).double()
        terms = (present.double(), x, y, x * x, y * y, x * y)
        self.sums += torch.stack([term.sum(dim=(0, 1)) for term in terms]).cpu()

    def reduce(self, add_over_workers: Callable[[Tensor], Tensor]) -> None:
        """Add up the sums of all workers, so that every worker holds the whole split's."""
        self.sums = add_over_workers(self.sums)

    def num_bins(self) -> Tensor:
        """Return the bins with data per track, [T]."""
        return self.sums[0]

    def pearson(self) -> Tensor:
        """Return the correlation per track over all bins, [T]; NaN where either side is constant or empty."""
        n, x, y, _, _, xy = self.sums
        covariance = n * xy - x * y
        spread = (self._spread(1) * self._spread(2)).sqrt()
        return torch.where(spread > 0, covariance / spread, torch.nan)

    def r2(self) -> Tensor:
        """Return the share of variance explained per track over all bins, [T]; NaN where it has none."""
        n, _, _, xx, yy, xy = self.sums
        errors = yy - 2 * xy + xx
        about_mean = self._spread(2) / n.clamp(min=1)
        return torch.where(about_mean > 0, 1 - errors / about_mean, torch.nan)

    def _spread(self, side: int) -> Tensor:
        """Return n^2 times the variance of x (1) or y (2), [T]; 0 where it is no more than rounding."""
        n, total, squares = self.sums[0], self.sums[side], self.sums[side + 2]
        spread = n * squares - total * total
        return torch.where(spread > 1e-12 * n * squares, spread, 0)


def mean_present(values: Tensor) -> float:
    """Return the mean over tracks that have a value; NaN where none has."""
    return float(values[~torch.isnan(values)].mean())
