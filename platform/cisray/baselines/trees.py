"""Random forests and gradient boosted trees of features, by scikit-learn."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from scipy.sparse import csr_array

from cisray.baselines.feature_sets import FeatureSet, Kmers, check_sets
from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomForestConfig:
    """Which features are read, and how the trees of a random forest grow; after Epigram, on k-mer counts."""

    architecture: Literal["random_forest"] = "random_forest"
    features: tuple[FeatureSet, ...] = (Kmers(k=4),)
    num_trees: int = 200
    leaf_sizes: tuple[int, ...] = (1, 5, 20)
    """Fewest windows of a leaf, tried on the validation split."""
    feature_share: float | None = None
    """Features that are looked at for a split; None is the square root of their number for labels, a third for
    numbers."""

    def __post_init__(self) -> None:
        check_sets(self.features)
        if self.num_trees < 1 or not self.leaf_sizes or min(self.leaf_sizes) < 1:
            raise InputError(
                f"random_forest: num_trees={self.num_trees}, leaf_sizes={list(self.leaf_sizes)}; wanted at least one "
                "of each, of 1 or more"
            )
        if self.feature_share is not None and not 0 < self.feature_share <= 1:
            raise InputError(f"random_forest: feature_share={self.feature_share}; wanted above 0 and up to 1")

    @property
    def settings(self) -> tuple[float, ...]:
        """Leaf sizes, the largest first."""
        return tuple(float(size) for size in sorted(self.leaf_sizes, reverse=True))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GradientBoostingConfig:
    """Which features are read, and how trees are added up."""

    architecture: Literal["gradient_boosting"] = "gradient_boosting"
    features: tuple[FeatureSet, ...] = (Kmers(k=4),)
    rounds: tuple[int, ...] = (25, 50, 100, 200)
    """Trees that are added up, tried on the validation split."""
    learning_rate: float = 0.1
    max_leaves: int = 31
    leaf_size: int = 20
    """Fewest windows of a leaf."""

    def __post_init__(self) -> None:
        check_sets(self.features)
        if not self.rounds or min(self.rounds) < 1 or self.max_leaves < 2 or self.leaf_size < 1:
            raise InputError(
                f"gradient_boosting: rounds={list(self.rounds)}, max_leaves={self.max_leaves}, "
                f"leaf_size={self.leaf_size}; wanted at least 1 round, 2 leaves and a leaf of 1"
            )
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"gradient_boosting: learning_rate={self.learning_rate}; wanted above 0 and up to 1")

    @property
    def settings(self) -> tuple[float, ...]:
        """Numbers of rounds, the fewest first."""
        return tuple(float(number) for number in sorted(self.rounds))


class TreesTrack(NamedTuple):
    """A forest, or boosted trees, of one track."""

    estimator: Any

    def decide(self, rows: csr_array) -> NDArray[np.float64]:
        """Score rows of features, [B, F] to [B]: log-odds of a class, or numbers.

        A forest of n trees with a mean probability p says log((n p + 1/2) / (n (1 - p) + 1/2)).
        """
        one = self.estimator
        if hasattr(one, "estimators_"):  # a forest, which reads sparse rows
            if not hasattr(one, "predict_proba"):
                return np.asarray(one.predict(rows), np.float64)
            share, num = one.predict_proba(rows)[:, 1], len(one.estimators_)
            return np.asarray(np.log((num * share + 0.5) / (num * (1 - share) + 0.5)), np.float64)
        decide = one.decision_function if hasattr(one, "decision_function") else one.predict
        return np.asarray(decide(rows.toarray()), np.float64)
