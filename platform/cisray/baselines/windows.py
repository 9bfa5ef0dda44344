"""The windows of a split, held for a shallow model: as codes or as features, with what was measured in each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cisray.baselines.gkm_lmers import Codes
from cisray.errors import InputError


class Windows(NamedTuple):
    """Windows of one bin with what was measured in each."""

    codes: Codes
    """[B, L]."""
    targets: NDArray[np.float32]
    """[B, T]; NaN where nothing was measured."""


class Table(NamedTuple):
    """Windows as features."""

    rows: csr_array
    """Float32 [B, F]."""
    targets: NDArray[np.floating]
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
