"""Deal pieces of one or more genomes out to folds or splits, so that each gets its share of nucleotides."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TRAIN, VALID, TEST = range(3)
ALWAYS_TRAIN = -1
"""The fold of what is too large for any fold: train, whichever folds are valid and test."""


class Shares(NamedTuple):
    """How much of the genomes validation and test are to get, and what is too large a piece for them."""

    valid: float
    test: float
    abstain: float
    """A piece larger than this part of what a split still lacks is not for that split (Calico's rule)."""


def deal_to_folds(sizes_bp: NDArray[np.int64], num_folds: int) -> NDArray[np.int64]:
    """Return the fold [M] of every piece: longest first, each to the fold that has least where the piece has most.

    `sizes_bp` [M, G] are a piece's bases in each genome; in one genome that is the emptiest fold. The first of equal
    pieces and of equal folds comes first.
    """
    total = np.maximum(sizes_bp.sum(axis=0), 1)
    filled = np.zeros((num_folds, sizes_bp.shape[1]), np.int64)
    fold = np.zeros(len(sizes_bp), np.int64)
    for piece in _longest_first(sizes_bp, total):
        size = sizes_bp[piece]
        fold[piece] = np.argmin((filled * (size / total**2)).sum(axis=1))
        filled[fold[piece]] += size
    return fold


def deal_by_share(sizes_bp: NDArray[np.int64], draws: NDArray[np.float64], shares: Shares) -> NDArray[np.int64]:
    """Return TRAIN, VALID or TEST [M] for every piece: longest first, drawn in proportion to what each split lacks.

    `sizes_bp` [M, G] are a piece's bases in each genome, `draws` [M] numbers in [0, 1). No split gets more than its
    share of any genome; validation and test may get less where pieces are large.
    """
    total = np.maximum(sizes_bp.sum(axis=0), 1)
    aim = np.array([1 - shares.valid - shares.test, shares.valid, shares.test])[:, None] * total
    filled = np.zeros_like(aim)
    role = np.zeros(len(sizes_bp), np.int64)
    for piece in _longest_first(sizes_bp, total):
        size = sizes_bp[piece]
        lacking = np.maximum(aim - filled, 0)
        weight = (lacking / total).mean(axis=1)
        weight[VALID:][(size > shares.abstain * lacking[VALID:]).any(axis=1)] = 0
        weight[TRAIN] = max(weight[TRAIN], 1 / total.sum())
        reach = np.cumsum(weight / weight.sum())
        role[piece] = min(int(np.searchsorted(reach, draws[piece], side="right")), TEST)
        filled[role[piece]] += size
    return role


def _longest_first(sizes_bp: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argsort(-(sizes_bp / total).sum(axis=1), kind="stable")
