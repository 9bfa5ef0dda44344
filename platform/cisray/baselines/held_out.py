"""How well a shallow model does on windows that it has not learned from."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cisray.baselines.gkm_lmers import Codes
from cisray.datasets.card import Kind
from cisray.errors import InputError

METRICS: dict[Kind, str] = {"labels": "auroc", "measurements": "pearson", "coverage": "pearson"}
"""What decides, by the kind of targets; both are as training.metrics defines them, and exact."""


class Windows(NamedTuple):
    """Windows of one bin with what was measured in each."""

    codes: Codes
    """[B, L]."""
    targets: NDArray[np.float32]
    """[B, T]; NaN where nothing was measured."""


def collect(batches: Iterable[tuple[Tensor, Tensor]], *, split: str) -> Windows:
    """Hold batches of codes [B, L] and targets [B, 1, T]: L + 4 T bytes a window.

    Raises:
        InputError: there is no window, or windows have several bins.
    """
    codes, targets = [], []
    for some_codes, some_targets in batches:
        if some_targets.ndim != 3 or some_targets.shape[1] != 1:
            raise InputError(
                f"the {split} split has targets of shape {tuple(some_targets.shape)}; wanted [windows, 1, tracks]: "
                "this model predicts one number per track of a window"
            )
        codes.append(some_codes.cpu().numpy().astype(np.uint8))
        targets.append(some_targets[:, 0].cpu().numpy().astype(np.float32))
    if not codes:
        raise InputError(f"the {split} split has no window; build the dataset with folds that fill it")
    return Windows(np.concatenate(codes), np.concatenate(targets))


def accuracy(kind: Kind, scores: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Measure scores [B] of one track against its target [B], NaN left out; NaN where either side is all alike."""
    present = ~np.isnan(target)
    x, y = scores[present].astype(np.float64), target[present].astype(np.float64)
    if METRICS[kind] == "auroc":
        labels = y > 0.5
        return float(roc_auc_score(labels, x)) if 0 < labels.sum() < len(labels) else np.nan
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
