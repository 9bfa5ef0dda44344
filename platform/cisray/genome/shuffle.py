"""Shuffle sequences and keep every count of two neighbouring bases, as Altschul and Erickson (1985) do.

A sequence is a walk over the bases, and a shuffle is another walk along the same steps. Every base but the last one
keeps one step for its last departure; these steps make a tree that leads to the last base. The tree is drawn with the
probability that it has among all walks, the other steps are put in random order, and so every walk is equally likely.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN

_BASES = UNKNOWN + 1  # N is a base like the others here: its neighbours are kept too


def shuffle_dinucleotides(codes: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return shuffled codes [B, L] that have the dinucleotides and the first and last base of each row of `codes`.

    `draws` [B, L] are random numbers in [0, 1); a row depends on its own alone. Raises InputError for other shapes.
    """
    if codes.ndim != 2 or draws.shape != codes.shape:
        raise InputError(f"codes {codes.shape} and draws {draws.shape}; wanted one draw per base of rows [B, L]")
    if codes.shape[1] < 4 or not len(codes):
        return codes.copy()  # no other walk
    source, target = codes[:, :-1], codes[:, 1:]
    last_target = _draw_trees(codes, draws[:, 0])
    rank = source + draws[:, 1:]  # by base, in random order
    for base in range(_BASES):
        kept = (source == base) & (target == last_target[:, base, None])
        found = np.flatnonzero(kept.any(axis=1))
        rank[found, kept[found].argmax(axis=1)] = base + 1 - 2**-40  # behind all other steps from this base
    steps = np.take_along_axis(target, np.argsort(rank, axis=1, kind="stable"), axis=1)
    return _walk(codes[:, 0], steps, departures=_counts(source, _BASES))


def _walk(start: NDArray[np.uint8], steps: NDArray[np.uint8], *, departures: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Follow the steps [B, L-1], grouped by the base they leave, each base's in order; return the bases passed."""
    B, num_steps = steps.shape
    walked = np.empty((num_steps + 1, B), np.uint8)
    walked[0] = start
    # where each row and base has its next step in the flat steps
    following = (np.cumsum(departures, axis=1) - departures + num_steps * np.arange(B)[:, None]).ravel()
    flat, row, here = steps.ravel(), _BASES * np.arange(B), start.astype(np.int64)
    for position in range(1, num_steps + 1):
        at = row + here
        here = flat[following[at]].astype(np.int64)
        following[at] += 1
        walked[position] = here
    return np.ascontiguousarray(walked.T)


def _draw_trees(codes: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where the last departure from each base goes, [B, 5]; -1 from the last base and from absent ones.

    A tree's probability is the product of how often each of its steps occurs.
    """
    B, last = len(codes), codes[:, -1]
    pair = _BASES * codes[:, :-1].astype(np.int64) + codes[:, 1:]
    counts = _counts(pair, _BASES**2).reshape(B, _BASES, _BASES)
    departs = counts.sum(axis=2) > 0
    drawn = np.full((B, _BASES), -1, np.int64)
    for root in range(_BASES):
        rows = np.flatnonzero(last == root)
        if not len(rows):
            continue
        weights = counts[rows].astype(np.float64)
        weights[:, :, root] = np.where(departs[rows], weights[:, :, root], 1.0)  # an absent base has one way to go
        trees = _TREES[root]
        bases = [base for base in range(_BASES) if base != root]
        chance = np.cumsum(np.prod(weights[:, bases, trees[:, bases]], axis=2), axis=1)  # [rows, trees]
        chosen = (chance <= draws[rows, None] * chance[:, -1:]).sum(axis=1)
        drawn[rows] = np.where(departs[rows], trees[chosen], -1)
        drawn[rows, root] = -1
    return drawn


def _trees(root: int) -> NDArray[np.int64]:
    """Return every tree over the bases that leads to `root`: where each base goes, [125, 5]."""
    found = []
    for goes in product(range(_BASES), repeat=_BASES):
        if goes[root] != root:
            continue
        reached = list(range(_BASES))
        for _ in range(_BASES):
            reached = [goes[base] for base in reached]
        if set(reached) == {root}:
            found.append(goes)
    return np.array(found)


def _counts(values: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """Count each number below `size` in every row [B, L]; returns [B, size]."""
    B = len(values)
    return np.bincount((values + size * np.arange(B)[:, None]).ravel(), minlength=B * size).reshape(B, size)


_TREES = [_trees(root) for root in range(_BASES)]
