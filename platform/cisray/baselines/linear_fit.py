"""Fit linear models of features along a path of penalties, by scikit-learn."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from cisray.baselines.linear import LinearConfig, LinearTrack

_TOLERANCE = 1e-6
_LOSS_TOLERANCE = 1e-8  # a step that gains a smaller share of the loss is the last
_MOST_STEPS = 100
_LEAST_WEIGHT = 1e-5  # of a window whose label is as good as certain
_Line = tuple[NDArray[np.float64], float]  # coefficients and intercept
_Settings = Callable[[float, int], dict[str, float]]


def linear_candidates(
    config: LinearConfig, rows: csr_array, target: NDArray[np.floating], *, labels: bool
) -> Iterator[tuple[float, LinearTrack]]:
    """Fit one track at each penalty, the strongest first, each from where the one before it ended.

    Args:
        config: the penalties.
        rows: float32 [B, F]; a copy in float64 is held while the track is fitted.
        target: [B], nothing missing.
        labels: whether the target is one, and the loss logistic.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - takes a second, which only fits are to pay

    scale = column_deviations(rows)
    scale[scale == 0] = 1  # a constant column; what it is multiplied by is zero
    scaled = csr_array(rows.astype(np.float64).multiply(1 / scale))
    y = (target > 0.5).astype(np.float64) if labels else target.astype(np.float64)
    strongest = 1.0
    if config.share > 0:
        strongest = float(np.abs((y - y.mean()) @ scaled).max()) / len(y) / config.share
        strongest = max(strongest, np.finfo(np.float64).tiny)
    estimator, settings = _estimator(config, labels=labels)
    line = np.zeros(scaled.shape[1]), float(np.log(y.mean() / (1 - y.mean()))) if labels else 0.0
    for setting in config.settings:
        penalty = setting * strongest
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            if labels and config.share > 0:
                line, converged = _fit_logistic(estimator, scaled, y, penalty, line)
            else:
                estimator.set_params(**settings(penalty, len(y))).fit(scaled, y)
                line = np.ravel(estimator.coef_).astype(np.float64), float(np.ravel(estimator.intercept_)[0])
                converged = True
        converged = converged and not any(issubclass(each.category, ConvergenceWarning) for each in said)
        yield setting, LinearTrack(line[0] / scale, line[1], converged)


def column_deviations(rows: csr_array) -> NDArray[np.float64]:
    """Return the standard deviation of each column, [B, F] to [F]; 0 where it is no more than rounding."""
    wide = rows.astype(np.float64)
    means = np.asarray(wide.mean(axis=0)).ravel()
    squares = np.asarray(wide.multiply(wide).mean(axis=0)).ravel()
    variances = squares - means**2
    return np.sqrt(np.where(variances > 1e-12 * squares, variances, 0))


def _estimator(config: LinearConfig, *, labels: bool) -> tuple[Any, _Settings]:
    """Return an estimator, and its settings for a penalty that stands beside the mean loss over so many rows."""
    from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge  # noqa: PLC0415 - as above

    limits = {"tol": _TOLERANCE, "max_iter": config.max_rounds}
    if config.share > 0:
        return ElasticNet(l1_ratio=config.share, warm_start=True, **limits), lambda penalty, _: {"alpha": penalty}
    if labels:
        return LogisticRegression(warm_start=True, **limits), lambda penalty, rows: {"C": 1 / (penalty * rows)}
    return Ridge(solver="lsqr", **limits), lambda penalty, rows: {"alpha": penalty * rows}


def _fit_logistic(
    estimator: Any, rows: csr_array, y: NDArray[np.float64], penalty: float, start: _Line
) -> tuple[_Line, bool]:
    """Fit a logistic elastic net by least squares that are weighted anew in each step, and say whether it converged.

    Steps are those of Friedman, Hastie and Tibshirani (2010). Scikit-learn's own solver of this problem, saga, stops
    far from the optimum on sparse columns whose means are not zero, as counts are.
    """
    line, loss = start, _logistic_loss(estimator, rows, y, penalty, start)
    for _ in range(_MOST_STEPS):
        scores = rows @ line[0] + line[1]
        shares = expit(scores)
        weights = np.maximum(shares * (1 - shares), _LEAST_WEIGHT)
        estimator.coef_ = line[0].copy()  # where it starts
        estimator.set_params(alpha=penalty * len(y) / weights.sum())
        estimator.fit(rows, scores + (y - shares) / weights, sample_weight=weights)
        step: _Line = estimator.coef_.astype(np.float64), float(estimator.intercept_)
        found = _logistic_loss(estimator, rows, y, penalty, step)
        while found > (1 + _LOSS_TOLERANCE) * loss:
            step = (line[0] + step[0]) / 2, (line[1] + step[1]) / 2
            found = _logistic_loss(estimator, rows, y, penalty, step)
        gain, line, loss = loss - found, step, found
        if abs(gain) <= _LOSS_TOLERANCE * loss:
            return line, True
    return line, False


def _logistic_loss(estimator: Any, rows: csr_array, y: NDArray[np.float64], penalty: float, line: _Line) -> float:
    """Return the mean logistic loss with the penalty."""
    coefficients, intercept = line
    scores = rows @ coefficients + intercept
    share = estimator.l1_ratio
    size = share * np.abs(coefficients).sum() + (1 - share) / 2 * np.square(coefficients).sum()
    return float((np.logaddexp(0, scores) - y * scores).mean() + penalty * size)
