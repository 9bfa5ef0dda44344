"""Fit gapped k-mer SVMs: one kernel for all tracks and prices, and one table of weights for each track."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.choosing import choose_best, constant
from cisray.baselines.fitted import Fitted
from cisray.baselines.gkm_estimator import GkmSvmConfig, has_lmers
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.baselines.gkm_svm import Solution, SvmSpec, solve
from cisray.baselines.gkm_table import weight_table
from cisray.baselines.windows import Windows
from cisray.datasets.card import Kind


class _Machine(NamedTuple):
    """A solved machine of one track, whose rows are kernels with the training windows of that track."""

    solution: Solution

    def decide(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.solution.decide(rows)


class GkmFits(NamedTuple):
    """Fits of all tracks to one kernel."""

    tracks: list[Fitted]
    """Each with a GkmTable for its model, or None."""
    num_thinned: int
    """Training windows that were left out, for there were too many."""
    num_blank: int
    """Training windows that hold no l-mer without N."""


def fit_gkm(config: GkmSvmConfig, train: Windows, valid: Windows, *, kind: Kind, seed: int) -> GkmFits:
    """Fit a machine for each track to one kernel of all training windows.

    Memory is 12 bytes for each pair of training windows and for each of a validation and a training window.

    Raises:
        InputError: windows are shorter than l.
    """
    chosen = np.flatnonzero(has_lmers(train.codes, config.gkm))
    num_blank = len(train.codes) - len(chosen)
    num_thinned = max(0, len(chosen) - config.most_windows)
    if num_thinned:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, config.most_windows, replace=False))
    measurable = np.flatnonzero(has_lmers(valid.codes, config.gkm))
    own = kernel_matrix(list(train.codes[chosen]), spec=config.gkm) if len(chosen) else np.zeros((0, 0))
    with_valid = np.zeros((0, len(chosen)))
    if len(chosen) and len(measurable):
        with_valid = kernel_matrix(list(valid.codes[measurable]), list(train.codes[chosen]), spec=config.gkm)
    tracks = []
    for target, valid_target in zip(train.targets[chosen].T, valid.targets[measurable].T, strict=True):
        fitted = constant(target, len(config.settings), kind=kind)
        if fitted is None:
            here = np.flatnonzero(~np.isnan(target))
            kernel, labels = own[np.ix_(here, here)], target[here] - (0.5 if kind == "labels" else 0)
            machines = _machines(config, kernel, labels, labels=kind == "labels")
            fitted = choose_best(machines, with_valid[:, here], valid_target, kind=kind)
            solution = fitted.model.solution
            support = train.codes[chosen[here[solution.support]]]
            table = weight_table(list(support), solution.coefficients, rho=solution.rho, spec=config.gkm)
            fitted = fitted._replace(model=table)
        tracks.append(fitted)
    return GkmFits(tracks, num_thinned, num_blank)


def _machines(
    config: GkmSvmConfig, kernel: NDArray[np.float64], target: NDArray[np.floating], *, labels: bool
) -> Iterator[tuple[float, _Machine]]:
    for price in config.settings:
        svm = SvmSpec(
            task="classes" if labels else "values",
            c=price,
            tolerance=config.tolerance,
            positive_weight=config.positive_weight,
            epsilon=config.epsilon,
        )
        yield price, _Machine(solve(kernel, target, svm))
