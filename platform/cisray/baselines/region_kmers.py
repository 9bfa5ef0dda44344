"""Choose k-mers and the part of the window in which each tells most of what was measured (after DExTER).

Menichelli et al. (2021) count a k-mer in every run of parts of a sequence, keep the run whose counts correlate best
with expression, and lengthen a k-mer by a base at either end for as long as that correlates better still.
"""

from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from cisray.baselines.features import LETTERS
from cisray.baselines.gkm_filters import BASES
from cisray.baselines.gkm_lmers import Codes, pack
from cisray.baselines.passes import Pass, Sums
from cisray.baselines.windows import Windows
from cisray.errors import InputError

_VALUES_AT_ONCE = 1 << 24  # counts of words in parts that stand dense in memory
_ROUNDING = 1e-9  # a smaller share of the second moment is no variance


class _Best(NamedTuple):
    """Of each word, the run of parts that correlates best."""

    correlation: NDArray[np.float64]
    """Its absolute value, for the track where that is greatest, [W]."""
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    """Behind the last part, [W]."""


def select_region_kmers(
    windows: Pass, *, longest: int, num_parts: int, num_kept: int, shortest: int = 2
) -> NDArray[np.int64]:
    """Choose at most `num_kept` k-mers with a run of parts each: [S, 4] of k, word, first part, behind the last one.

    A k-mer belongs to the part its first base lies in. The best come first; none of those chosen is constant.

    Args:
        windows: read once for each k; targets that are NaN are left out. A k-mer counts by the track that it
            correlates with most.
        longest: bases of the longest k-mer.
        num_parts: equal parts that the window is cut into.
        num_kept: k-mers to choose.
        shortest: bases of the k-mers that all are looked at.
    """
    words = np.arange(BASES**shortest)
    floor = np.zeros(len(words))
    found = []
    for k in range(shortest, longest + 1):
        best = _best_runs(windows(partial(_sum_runs, k, words, num_parts)), num_parts)
        better = best.correlation > floor
        words = words[better]
        correlation = best.correlation[better]
        rows = np.stack([np.full(len(words), k), words, best.first[better], best.last[better]], axis=1)
        found.append((correlation, rows))
        words, floor = _lengthened(words, correlation, k)
        if not len(words):
            break
    correlations = np.concatenate([each for each, _ in found])
    order = np.argsort(-correlations, kind="stable")[:num_kept]
    return np.concatenate([rows for _, rows in found])[order]


def count_region_kmers(codes: Codes, chosen: NDArray[np.int64], num_parts: int) -> csr_array:
    """Count chosen k-mers [S, 4], each in its run of parts of codes [B, L]: float32 [B, S]."""
    total = csr_array((len(codes), len(chosen)), dtype=np.float32)
    for k in np.unique(chosen[:, 0]).tolist():
        own = np.flatnonzero(chosen[:, 0] == k)
        runs = [np.arange(first, last) for _, _, first, last in chosen[own]]
        rows = np.concatenate([word * num_parts + run for word, run in zip(chosen[own, 1], runs, strict=True)])
        columns = np.repeat(own, [len(run) for run in runs])
        shape = BASES**k * num_parts, len(chosen)
        read = coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape).tocsr()
        total = total + _count_in_parts(codes, k, num_parts) @ read
    return csr_array(total)


def name_region_kmers(chosen: NDArray[np.int64], *, window_bp: int, num_parts: int) -> tuple[str, ...]:
    """Name chosen k-mers by their letters and the offsets of the bases at which they may begin: ACG@0-50."""
    borders = [-(-part * window_bp // num_parts) for part in range(num_parts + 1)]
    names = []
    for k, word, first, last in chosen.tolist():
        letters = "".join(LETTERS[word >> 2 * place & 3] for place in range(k - 1, -1, -1))
        names.append(f"{letters}@{borders[first]}-{borders[last]}")
    return tuple(names)


def check_region_kmers(chosen: NDArray[np.int64], *, longest: int, num_parts: int) -> None:
    """Raise InputError where stored k-mers [S, 4] are none: too long, no word, or beyond the parts."""
    k, word, first, last = chosen.T
    right = (k >= 1) & (k <= longest) & (word >= 0) & (word < BASES ** k.clip(0, longest))
    right &= (first >= 0) & (first < last) & (last <= num_parts)
    if not right.all():
        raise InputError(
            f"{int((~right).sum())} of {len(chosen)} stored k-mers of regions are longer than {longest} bases, no "
            f"words or beyond {num_parts} parts; this model was damaged, make it again"
        )


def _lengthened(
    words: NDArray[np.int64], correlation: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Add a base at either end of words: all longer words, and the best correlation among those each was made of."""
    letters = np.arange(BASES)
    behind = (words[:, None] * BASES + letters).ravel()
    before = (letters * BASES**k + words[:, None]).ravel()
    longer, number = np.unique(np.concatenate([behind, before]), return_inverse=True)
    floor = np.zeros(len(longer))
    np.maximum.at(floor, number, np.tile(np.repeat(correlation, BASES), 2))
    return longer, floor


def _runs(num_parts: int) -> NDArray[np.int64]:
    """List the runs of parts, the narrowest first: [R, 2] of the first part and the one behind the last."""
    return np.array(sorted(combinations(range(num_parts + 1), 2), key=lambda run: run[1] - run[0]))


def _sum_runs(k: int, words: NDArray[np.int64], num_parts: int, windows: Windows) -> Sums:
    """Add up over windows what correlations of counts x and targets y are made of, where y is there.

    x, xx and xy are [R, W, T], of words [W] in runs [R]; n, y and yy are [T].
    """
    codes, targets = windows
    present = (~np.isnan(targets)).astype(np.float64)
    values = np.nan_to_num(targets.astype(np.float64))
    runs = _runs(num_parts)
    shape = len(runs), len(words), targets.shape[1]
    sums = {name: np.zeros(shape) for name in ("x", "xx", "xy")}
    at_once = max(1, _VALUES_AT_ONCE // (BASES**k * num_parts))
    for start in range(0, len(codes), at_once):
        rows = slice(start, start + at_once)
        counts = _count_in_parts(codes[rows], k, num_parts).toarray().reshape(-1, BASES**k, num_parts)[:, words]
        before = np.concatenate([np.zeros_like(counts[:, :, :1]), counts.cumsum(axis=2)], axis=2).astype(np.float64)
        for number, (first, last) in enumerate(runs):
            x = (before[:, :, last] - before[:, :, first]).T  # [W, b]
            sums["x"][number] += x @ present[rows]
            sums["xx"][number] += x**2 @ present[rows]
            sums["xy"][number] += x @ values[rows]
    return sums | {"n": present.sum(axis=0), "y": values.sum(axis=0), "yy": (values**2).sum(axis=0)}


def _best_runs(sums: Sums, num_parts: int) -> _Best:
    """Find for each word [W] the run of parts whose counts correlate best with any track."""
    n, y = sums["n"], sums["y"]
    spreads = _spread(n, sums["x"], sums["xx"]) * _spread(n, y, sums["yy"])
    covariance = np.abs(n * sums["xy"] - sums["x"] * y)
    correlation = np.where(spreads > 0, covariance / np.sqrt(np.where(spreads > 0, spreads, 1)), 0).max(axis=2)
    best = correlation.argmax(axis=0)  # the first of equal ones, which is the narrowest
    return _Best(correlation[best, np.arange(correlation.shape[1])], *_runs(num_parts)[best].T)


def _spread(n: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return n^2 times the variance; 0 where it is no more than rounding."""
    spread = n * squares - total**2
    return np.where(spread > _ROUNDING * n * squares, spread, 0.0)


def _count_in_parts(codes: Codes, k: int, num_parts: int) -> csr_array:
    """Count k-mers without N in each part of codes [B, L]: float32 [B, 4^k * parts]."""
    words, _, known = pack(codes, k)
    part_of = np.arange(words.shape[1]) * num_parts // codes.shape[1]
    columns = words.astype(np.int64) * num_parts + part_of
    rows = np.broadcast_to(np.arange(len(codes))[:, None], columns.shape)[known]
    ones = np.ones(len(rows), np.float32)
    counts = csr_array((ones, (rows, columns[known])), shape=(len(codes), BASES**k * num_parts))
    counts.sum_duplicates()
    return counts
