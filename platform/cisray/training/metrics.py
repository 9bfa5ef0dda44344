"""Metrics from running sums: exact over any number of batches and workers, in memory that does not grow.

Only `HeldValues` keeps what it sees, because a rank over all bins needs all of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cisray.errors import InputError

DEFINITIONS = {
    "pearson": "Pearson correlation of prediction and measurement per track, over all bins with data of the split",
    "r2": "1 - (sum of squared errors) / (sum of squares about the mean) per track, over the same bins",
    "pearson_log1p": "the same correlation after log(1 + x) of both; predictions below 0 count as 0",
    "spearman": "Spearman's rank correlation per track, over all bins with data of the split; exact, ties share a rank",
    "pearson_per_window": "Pearson correlation over the bins of a window, then the mean over windows, per track; "
    "windows in which either side is constant do not count",
    "r2_per_window": "1 - (sum of squared errors) / (sum of squares about the window's own mean), then the mean over "
    "windows, per track; windows whose measurement is constant do not count",
    "spearman_per_window": "Spearman's rank correlation over the bins of a window, then the mean over windows, per "
    "track; exact, ties share a rank",
    "profile_jsd": "Jensen-Shannon distance (natural logarithm, square root taken) between the predicted and the "
    "measured share of each bin in its window's total, then the mean over windows, per track; predictions below 0 "
    "count as 0, windows in which either side is all 0 do not count",
    "auroc": "area under the curve of true against false positives per track: the chance that a bin with the label "
    "scores higher than one without, ties half; logits that round to the same 1/2048 are a tie (1/64 where a dataset "
    "has hundreds of tracks), as are those beyond 32 on one side",
    "average_precision": "mean over the bins with the label of the precision at their score, per track; ties as in "
    "auroc",
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


class WindowMeans:
    """Metrics of single windows, summed over the windows that have them: float64 [metrics, 2, T], sum and number."""

    def __init__(self, num_tracks: int, metrics: Sequence[str] = ("pearson", "r2")) -> None:
        unknown = sorted(set(metrics) - set(_OF_WINDOW))
        if unknown:
            raise InputError(f"metric {unknown[0]!r} per window; wanted one of {', '.join(_OF_WINDOW)}")
        self.metrics = tuple(metrics)
        self.sums = torch.zeros(len(self.metrics), 2, num_tracks, dtype=torch.float64)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add the windows of [B, N, T] predictions and targets; a bin whose target is NaN is left out.

        Raises FloatingPointError for a prediction that is not a finite number.
        """
        _check_finite(predictions, targets)
        present = ~torch.isnan(targets).transpose(1, 2)  # [B, T, N], as all of them read
        x = torch.where(present, predictions.transpose(1, 2), 0).double()
        y = torch.where(present, targets.transpose(1, 2), 0).double()
        for index, metric in enumerate(self.metrics):
            values = _OF_WINDOW[metric](x, y, present)  # [B, T]
            known = ~torch.isnan(values)
            sums = (torch.where(known, values, 0).sum(dim=0), known.double().sum(dim=0))
            self.sums[index] += torch.stack(sums).cpu()

    def reduce(self, add_over_workers: Callable[[Tensor], Tensor]) -> None:
        """Add up the sums of all workers, so that every worker holds the whole split's."""
        self.sums = add_over_workers(self.sums)

    def num_windows(self, metric: str) -> Tensor:
        """Return the windows per track that have the metric, [T]."""
        return self.sums[self.metrics.index(metric), 1]

    def mean(self, metric: str) -> Tensor:
        """Return the mean over windows per track, [T]; NaN where no window has the metric."""
        total, number = self.sums[self.metrics.index(metric)]
        return torch.where(number > 0, total / number, torch.nan)


class ScoreHistogram:
    """How often each score came with and without the label: int64 [2, T, bins], in memory that does not grow.

    Scores are logits between -32 and 32, kept to 1/2048, or to what many tracks need to stay within 32 MiB, but at
    least to 1/64 (a probability to 1.6 % of itself or of its complement); what lies beyond counts as the end. Some
    models tell their examples apart within a tenth of a logit, others are sure beyond 16. `auroc_error` bounds what
    rounding can have changed.
    """

    LIMIT = 32
    MOST_STEPS, LEAST_STEPS = 2048, 64
    NUM_COUNTS = 1 << 22

    def __init__(self, num_tracks: int) -> None:
        affordable = max(self.NUM_COUNTS // (4 * self.LIMIT * num_tracks), self.LEAST_STEPS)  # two labels, two signs
        self.steps = min(1 << (affordable.bit_length() - 1), self.MOST_STEPS)
        self.counts = torch.zeros(2, num_tracks, 2 * self.LIMIT * self.steps + 1, dtype=torch.int64)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add the bins of logits and labels [B, N, T]; a label is true above one half, and NaN is left out.

        Raises FloatingPointError for a logit that is not a finite number.
        """
        _check_finite(logits, targets)
        self.counts = self.counts.to(logits.device)  # where they are made, because they are many
        num_tracks, num_scores = self.counts.shape[1:]
        present = ~torch.isnan(targets)
        scores = torch.where(present, logits, 0).double().clamp(-self.LIMIT, self.LIMIT)
        place = ((scores + self.LIMIT) * self.steps).round().long()
        track = torch.arange(num_tracks, device=place.device)
        key = (((targets > 0.5) * num_tracks + track) * num_scores + place)[present]
        self.counts.view(-1).index_add_(0, key, torch.ones_like(key))

    def reduce(self, add_over_workers: Callable[[Tensor], Tensor]) -> None:
        """Add up the counts of all workers, so that every worker holds the whole split's."""
        self.counts = add_over_workers(self.counts.cpu())

    def auroc(self) -> Tensor:
        """Return the area under the ROC curve per track, [T]; NaN where labels are all alike."""
        negative, positive = self.counts.double()
        below = negative.cumsum(dim=1) - negative
        pairs = positive.sum(dim=1) * negative.sum(dim=1)
        won = (positive * (below + negative / 2)).sum(dim=1)
        return torch.where(pairs > 0, won / pairs, torch.nan)

    def auroc_error(self) -> Tensor:
        """Return by how much ties of rounding can have moved `auroc` either way, [T]."""
        negative, positive = self.counts.double()
        pairs = positive.sum(dim=1) * negative.sum(dim=1)
        return torch.where(pairs > 0, (positive * negative).sum(dim=1) / 2 / pairs, torch.nan)

    def average_precision(self) -> Tensor:
        """Return the average precision per track, [T]; NaN where no bin has the label."""
        negative, positive = self.counts.double()
        true = positive.flip(1).cumsum(dim=1).flip(1)  # labelled bins of this score or more
        called = true + negative.flip(1).cumsum(dim=1).flip(1)
        precision = true / called.clamp(min=1)
        total = positive.sum(dim=1)
        return torch.where(total > 0, (precision * positive).sum(dim=1) / total, torch.nan)


class HeldValues:
    """All predictions and measurements of a split, for ranks over all bins: 8 bytes per bin and track."""

    def __init__(self, num_tracks: int) -> None:
        self.parts = [torch.zeros(2, 0, num_tracks)]

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep the bins of [B, N, T] predictions and targets; a bin whose target is NaN is left out of the ranks.

        Raises FloatingPointError for a prediction that is not a finite number.
        """
        _check_finite(predictions, targets)
        self.parts.append(torch.stack([predictions.float(), targets.float()]).flatten(1, 2).cpu())

    def reduce(self, add_over_workers: Callable[[Tensor], Tensor], *, rank: int) -> None:
        """Bring together the values of all workers, in order of rank, so that every worker holds the whole split's."""
        mine = torch.cat(self.parts, dim=1)
        num_workers = int(add_over_workers(torch.ones(1, dtype=torch.float64)))
        sizes = torch.zeros(num_workers, dtype=torch.float64)
        sizes[rank] = mine.shape[1]
        sizes = add_over_workers(sizes).long()
        start = int(sizes[:rank].sum())
        whole = torch.zeros(2, int(sizes.sum()), mine.shape[2])
        whole[:, start : start + mine.shape[1]] = mine
        self.parts = [add_over_workers(whole)]

    def spearman(self) -> Tensor:
        """Return the rank correlation per track over all bins, [T]; NaN where either side is constant or empty."""
        x, y = torch.cat(self.parts, dim=1).transpose(1, 2).double()  # [T, bins]
        present = ~torch.isnan(y)
        return _spearman(x, torch.where(present, y, 0), present)


def mean_present(values: Tensor) -> float:
    """Return the mean over tracks that have a value; NaN where none has."""
    return float(values[~torch.isnan(values)].mean())


def _check_finite(predictions: Tensor, targets: Tensor) -> None:
    """Raise FloatingPointError where a prediction of a bin with data is not finite: it would vanish from a mean."""
    wrong = int((~torch.isfinite(predictions) & ~torch.isnan(targets)).sum())
    if wrong:
        raise FloatingPointError(
            f"{wrong} of {predictions.numel()} predictions are not finite numbers; the weights have diverged, or the "
            "network computes in too low a precision"
        )


def _centred(values: Tensor, present: Tensor) -> Tensor:
    """Take the mean of the present ones off values [..., N]; 0 elsewhere, and where all are equal up to rounding."""
    number = present.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = torch.where(present, values, 0).sum(dim=-1, keepdim=True) / number
    centred = torch.where(present, values - mean, 0)
    varies = (centred.square().sum(dim=-1, keepdim=True) / number).sqrt() > 1e-12 * mean.abs()
    return torch.where(varies, centred, 0)


def _pearson(x: Tensor, y: Tensor, present: Tensor) -> Tensor:
    """Return the correlation along the last axis; NaN where either side is constant."""
    x, y = _centred(x, present), _centred(y, present)
    spread = (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()
    return torch.where(spread > 0, (x * y).sum(dim=-1) / spread, torch.nan)


def _r2(x: Tensor, y: Tensor, present: Tensor) -> Tensor:
    """Return the share of variance explained along the last axis; NaN where there is none."""
    about_mean = _centred(y, present).square().sum(dim=-1)
    errors = torch.where(present, x - y, 0).square().sum(dim=-1)
    return torch.where(about_mean > 0, 1 - errors / about_mean, torch.nan)


def _spearman(x: Tensor, y: Tensor, present: Tensor) -> Tensor:
    """Return the rank correlation along the last axis; NaN where either side is constant."""
    return _pearson(_ranks(x, present), _ranks(y, present), present)


def _ranks(values: Tensor, present: Tensor) -> Tensor:
    """Rank the present ones along the last axis, ties sharing the mean of their ranks; what is absent ranks last."""
    values = torch.where(present, values, torch.inf).contiguous()
    ordered = values.sort(dim=-1).values
    first, after = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (first + after).double() / 2


def _jensen_shannon(x: Tensor, y: Tensor, present: Tensor) -> Tensor:
    """Return the distance between the shares of x and of y along the last axis; NaN where either is all 0."""
    x, y = (torch.where(present, side, 0).clamp(min=0) for side in (x, y))
    x_total, y_total = x.sum(dim=-1), y.sum(dim=-1)
    p, q = x / x_total[..., None], y / y_total[..., None]
    middle = (p + q) / 2
    divergence = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).nan_to_num(0.0).sum(dim=-1) / 2
    return torch.where((x_total > 0) & (y_total > 0), divergence.clamp(min=0).sqrt(), torch.nan)


_OF_WINDOW: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "pearson": _pearson,
    "r2": _r2,
    "spearman": _spearman,
    "profile_jsd": _jensen_shannon,
}
