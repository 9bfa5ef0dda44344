"""How alike the features are that a shallow model reads when it is fitted to other parts of the data."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cisray.baselines.estimators import TableModel
from cisray.baselines.fitted import Fitted
from cisray.baselines.fitting import fit_track
from cisray.baselines.importance import Sort
from cisray.baselines.linear_fit import column_deviations
from cisray.baselines.trees_file import gains
from cisray.baselines.windows import Table, Windows
from cisray.datasets.card import Kind
from cisray.errors import InputError


class Stability(NamedTuple):
    """How alike the features are that models read which were fitted to other halves of the data."""

    sort: Sort
    names: tuple[str, ...]
    """[F]."""
    frequency: NDArray[np.float64]
    """Share of fits that read a feature, [F, T]."""
    mean: NDArray[np.float64]
    """Weight over fits, [F, T]: coefficients on features of variance 1, or shares of what trees gain."""
    deviation: NDArray[np.float64]
    """Of the same, [F, T]."""
    rank_correlation: NDArray[np.float64]
    """Spearman's, of absolute weights, the mean over pairs of fits, [T]; NaN where a fit reads nothing."""


def stability(
    model: TableModel, train: Windows, valid: Windows, *, kind: Kind, resamples: int = 20, seed: int = 0
) -> Stability:
    """Fit anew to random halves of the training windows, and compare what the fits read.

    Halves, drawn without replacement, are what stability selection uses (Meinshausen and Bühlmann 2010). Features that
    are chosen on the training split stay those of `model`.

    Raises:
        InputError: there are fewer than two resamples.
    """
    if resamples < 2:
        raise InputError(f"resamples={resamples}; wanted at least two fits to compare")
    rows, held_out = model.features(train.codes), Table(model.features(valid.codes), valid.targets)
    deviations = column_deviations(rows)
    random = np.random.default_rng(seed)
    num_tracks = train.targets.shape[1]
    weights = np.zeros((resamples, rows.shape[1], num_tracks))
    for number in range(resamples):
        half = np.sort(random.permutation(len(train.codes))[: max(1, len(train.codes) // 2)])
        part = Table(rows[half], train.targets[half])
        for track in range(num_tracks):
            fitted = fit_track(model.config, part, held_out, kind, seed + number, track)
            weights[number, :, track] = _weights(fitted, deviations)
    correlation = [_mean_rank_correlation(np.abs(weights[:, :, track])) for track in range(num_tracks)]
    return Stability(
        "subjective",
        model.features.names,
        (weights != 0).mean(axis=0),
        weights.mean(axis=0),
        weights.std(axis=0, ddof=1),
        np.array(correlation),
    )


def _weights(fitted: Fitted, deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a fit gives each feature, [F]."""
    model: Any = fitted.model
    if model is None:
        return np.zeros(len(deviations))
    if hasattr(model, "coefficients"):
        weights: NDArray[np.float64] = model.coefficients * deviations
        return weights
    return gains(model.estimator, len(deviations))


def _mean_rank_correlation(weights: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of fits [R, F], the mean over pairs; NaN where one is the same for all features."""
    ranks = rankdata(weights, axis=1)
    if (np.ptp(ranks, axis=1) == 0).any():
        return float("nan")
    correlations = np.corrcoef(ranks)
    return float(correlations[np.triu_indices(len(ranks), 1)].mean())
