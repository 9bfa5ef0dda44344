"""How well a shallow model does on windows that it has not learned from."""

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.card import Kind

METRICS: dict[Kind, str] = {"labels": "auroc", "measurements": "pearson", "coverage": "pearson"}
"""What decides, by the kind of targets; both are as training.metrics defines them, and exact."""


def accuracy(kind: Kind, scores: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Measure scores [B] of one track against its target [B], NaN left out; NaN where either side is all alike."""
    present = ~np.isnan(target)
    x, y = scores[present].astype(np.float64), target[present].astype(np.float64)
    if METRICS[kind] == "auroc":
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - takes a second, which only fits are to pay

        labels = y > 0.5
        return float(roc_auc_score(labels, x)) if 0 < labels.sum() < len(labels) else np.nan
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
