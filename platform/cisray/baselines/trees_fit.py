"""Grow random forests and gradient boosted trees of features, by scikit-learn."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig, TreesTrack
from cisray.errors import InputError

MOST_DENSE_COLUMNS = 1 << 14
# Up to which a forest's features are held dense: the same trees come, twice as fast where one number in 20 is not zero,
# and seven times where every other one is not.
MOST_DENSE_BYTES = 1 << 30


def tree_candidates(
    config: RandomForestConfig | GradientBoostingConfig,
    rows: csr_array,
    target: NDArray[np.floating],
    *,
    labels: bool,
    seed: int,
) -> Iterator[tuple[float, TreesTrack]]:
    """Fit one track at each setting, the most restrained first; the fit takes torch's number of threads.

    Args:
        config: forest or boosting, and the settings.
        rows: float32 [B, F]; boosting holds them dense, a forest up to MOST_DENSE_BYTES.
        target: [B], nothing missing.
        labels: whether the target is one.
        seed: of the trees.

    Raises:
        InputError: there are too many features to hold dense.
    """
    y = (target > 0.5).astype(np.int64) if labels else target.astype(np.float64)
    if isinstance(config, RandomForestConfig):
        yield from _forests(config, rows, y, labels=labels, seed=seed)
        return
    if rows.shape[1] > MOST_DENSE_COLUMNS:
        raise InputError(
            f"gradient_boosting: {rows.shape[1]} features; wanted at most {MOST_DENSE_COLUMNS}, as it holds them "
            "dense: choose smaller k, or random_forest"
        )
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # noqa: PLC0415 - as below

    dense = rows.toarray()
    kind = HistGradientBoostingClassifier if labels else HistGradientBoostingRegressor
    boosted = kind(
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.max_leaves,
        min_samples_leaf=config.leaf_size,
        early_stopping=False,
        warm_start=True,  # each number of rounds goes on from the one before
        random_state=seed,
    )
    for rounds in config.settings:
        yield rounds, TreesTrack(boosted.set_params(max_iter=int(rounds)).fit(dense, y))


def _forests(
    config: RandomForestConfig, rows: csr_array, y: NDArray, *, labels: bool, seed: int
) -> Iterator[tuple[float, TreesTrack]]:
    # takes a second, which only fits are to pay
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor  # noqa: PLC0415

    kind = RandomForestClassifier if labels else RandomForestRegressor
    held = rows.toarray() if math.prod(rows.shape) * rows.dtype.itemsize <= MOST_DENSE_BYTES else rows
    for leaf_size in config.settings:
        forest = kind(
            n_estimators=config.num_trees,
            min_samples_leaf=int(leaf_size),
            max_features=config.feature_share or ("sqrt" if labels else 1 / 3),
            random_state=seed,
            n_jobs=torch.get_num_threads(),
        )
        forest.fit(held, y)
        yield leaf_size, TreesTrack(forest.set_params(n_jobs=None))  # threads would add up in any order
