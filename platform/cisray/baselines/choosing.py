"""Keep the best of some fitted models of one track by the validation split, and make its scores probabilities."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.fitted import Decider, Fitted, Line
from cisray.baselines.held_out import accuracy
from cisray.baselines.platt import calibrate
from cisray.datasets.card import Kind


def choose_best(
    candidates: Iterable[tuple[float, Decider]], rows: Any, target: NDArray[np.floating], *, kind: Kind
) -> Fitted:
    """Keep the candidate that is most accurate on validation rows and their target [B]; the first of equal ones.

    Candidates come with their settings, the most restrained first, and may be one object that changes from turn to
    turn. Without anything to measure by, the first is kept.
    """
    best: tuple[float, Any, float] | None = None
    tried = []
    for setting, model in candidates:
        tried.append(accuracy(kind, model.decide(rows), target))
        measured = tried[-1] if np.isfinite(tried[-1]) else -np.inf
        if best is None or measured > best[2]:
            best = setting, copy.deepcopy(model), measured
    assert best is not None
    setting, model, _ = best
    line = Line()
    if kind == "labels":
        present = ~np.isnan(target)
        line = calibrate(model.decide(rows)[present], target[present] > 0.5)
    return Fitted(model, line, setting, tuple(tried))


def constant(target: NDArray[np.floating], num_settings: int, *, kind: Kind) -> Fitted | None:
    """Return the fit to a target [B] from which nothing can be learned, all alike or missing; None for any other."""
    known = target[~np.isnan(target)].astype(np.float64)
    if kind == "labels":
        known = (known > 0.5).astype(np.float64)
    if len(known) > 1 and np.ptp(known) > 0:
        return None
    offset = float(known.mean()) if len(known) else 0.0
    if kind == "labels":
        offset = float(np.log((known.sum() + 1) / (len(known) - known.sum() + 1)))
    return Fitted(None, Line(0.0, offset), np.nan, (np.nan,) * num_settings)
