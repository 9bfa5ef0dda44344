"""Linear models of features with a penalty: lasso, ridge and elastic net; logistic of labels, linear of numbers."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from scipy.sparse import csr_array

from cisray.baselines.feature_sets import FeatureSet, Kmers, check_sets
from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinearConfig:
    """Which features are read, and what holds their coefficients back."""

    architecture: Literal["linear"] = "linear"
    features: tuple[FeatureSet, ...] = (Kmers(),)
    penalty: Literal["l1", "l2", "elastic_net"] = "elastic_net"
    l1_share: float = 0.5
    """Of elastic_net: how much of the penalty is on absolute values; the rest is on squares."""
    penalties: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    """Tried on the validation split, on features of variance 1: of l2, the weight beside the mean loss; of the others,
    shares of the least penalty that leaves no coefficient."""
    max_rounds: int = 1000
    """Passes over the data at most, for each penalty."""

    def __post_init__(self) -> None:
        check_sets(self.features)
        if not self.penalties or min(self.penalties) <= 0 or not 0 < self.l1_share <= 1 or self.max_rounds < 1:
            raise InputError(
                f"linear: penalties={list(self.penalties)}, l1_share={self.l1_share}, max_rounds={self.max_rounds}; "
                "wanted positive penalties, a share above 0 and up to 1, and at least one pass"
            )

    @property
    def settings(self) -> tuple[float, ...]:
        """Penalties, the strongest first."""
        return tuple(sorted(self.penalties, reverse=True))

    @property
    def share(self) -> float:
        """Of the penalty on absolute values."""
        return {"l1": 1.0, "l2": 0.0, "elastic_net": self.l1_share}[self.penalty]


class LinearTrack(NamedTuple):
    """A linear model of one track."""

    coefficients: NDArray[np.float64]
    """On the features as they are, [F]."""
    intercept: float
    converged: bool
    """Whether the fit reached its tolerance within the passes."""

    def decide(self, rows: csr_array) -> NDArray[np.float64]:
        """Score rows of features, [B, F] to [B]."""
        scores: NDArray[np.float64] = rows @ self.coefficients + self.intercept
        return scores
