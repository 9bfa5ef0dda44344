"""Gapped k-mer SVMs as estimators: a price chosen on the validation split, and one table of weights for each track.

The k-mer SVM is the case without gaps: `gkm = {l = 6, k = 6, d = 0, kernel = "gkm_count"}`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.baselines.gkm_filters import GkmSpec, mismatch_coefficients
from cisray.baselines.gkm_lmers import Codes, self_products
from cisray.baselines.gkm_table import GkmTable
from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GkmSvmConfig:
    """Which gapped k-mers are compared, and what errors cost."""

    architecture: Literal["gkm_svm"] = "gkm_svm"
    gkm: GkmSpec = GkmSpec()
    prices: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Of an error against the norm of the weights (C), tried on the validation split."""
    tolerance: float = 1e-3
    """Largest violation of the conditions of the optimum at which training stops."""
    positive_weight: float = 1.0
    """Of labels: how many times more an error costs where the label is true."""
    epsilon: float = 0.1
    """Of numbers: distance from the truth that costs nothing."""
    most_windows: int = 10_000
    """Of the training split; more are thinned out at random, as the kernel takes 12 bytes for each pair."""

    def __post_init__(self) -> None:
        if not self.prices or self.most_windows < 2:
            raise InputError(
                f"gkm_svm: prices={list(self.prices)}, most_windows={self.most_windows}; wanted at least one price and "
                "two windows"
            )
        if min(*self.prices, self.tolerance, self.positive_weight) <= 0 or self.epsilon < 0:
            raise InputError(
                f"gkm_svm: prices={list(self.prices)}, tolerance={self.tolerance}, positive_weight="
                f"{self.positive_weight}, epsilon={self.epsilon}; wanted positive numbers, and epsilon zero or more"
            )

    @property
    def settings(self) -> tuple[float, ...]:
        """Prices, the lowest first."""
        return tuple(sorted(self.prices))


def has_lmers(codes: Codes, spec: GkmSpec) -> NDArray[np.bool_]:
    """Tell which windows [B, L] hold an l-mer without N."""
    if codes.shape[1] < spec.l:
        raise InputError(f"gkm_svm: windows of {codes.shape[1]} bases; wanted at least the l={spec.l} of an l-mer")
    unknown = np.concatenate([np.zeros((len(codes), 1), np.int64), np.cumsum(codes > 3, axis=1)], axis=1)
    fine: NDArray[np.bool_] = (unknown[:, spec.l :] == unknown[:, : -spec.l]).any(axis=1)
    return fine


def decide_by_tables(tables: Sequence[GkmTable], codes: Codes) -> NDArray[np.float64]:
    """Score codes [B, L] by tables of one specification: [B, T].

    A window that holds no l-mer without N has no direction in the kernel's space, and scores what is left: minus rho.
    """
    rows, spec = list(codes), tables[0].spec
    squares = self_products(rows, spec, mismatch_coefficients(spec))
    norms = np.sqrt(np.where(squares > 0, squares, 1))
    return np.stack([table.sum_weights(rows) / norms - table.rho for table in tables], axis=1)
