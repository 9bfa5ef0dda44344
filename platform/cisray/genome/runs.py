"""Hold signal as runs of bases that share a value; spread it over the bases, and sum it up in bins."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.genome.ranges import join_ranges

_PIECE_BP = 1 << 15  # a larger array is mapped anew each time, which takes longer than to fill it


class Runs(NamedTuple):
    """Stretches of one contig in order, none overlapping another; bases between them have no value."""

    start: NDArray[np.integer]
    """0-based, [M]."""
    end: NDArray[np.integer]
    """Half-open, beyond its start, [M]."""
    value: NDArray[np.float32]
    """The value of each base of the run, [M]."""

    def within(self, start: int, end: int) -> "Runs":
        """Return the runs that reach into an interval, cut at its ends."""
        position = self.start.dtype.type  # of another type than theirs, numpy would convert all of them
        first = np.searchsorted(self.end, position(start), side="right")
        last = max(first, np.searchsorted(self.start, position(end), side="left")) if start < end else first
        starts, ends = self.start[first:last], self.end[first:last]
        if len(starts) and starts[0] < start:
            starts = np.concatenate([[start], starts[1:]])
        if len(ends) and ends[-1] > end:
            ends = np.concatenate([ends[:-1], [end]])
        return Runs(starts, ends, self.value[first:last])

    def spread(self, values: NDArray[np.float32], start: int, *, empty: float = np.nan) -> None:
        """Write the value of every base into `values` [L], which begins at base `start` and is full of `empty`."""
        if not len(self.start):
            return
        first, last = int(self.start[0]), int(self.end[-1])
        if last - first == len(self.value):  # one base each, side by side
            values[first - start : last - start] = self.value
            return
        cuts = np.searchsorted(self.start, np.arange(first, last, _PIECE_BP)).tolist()
        for begin, end in pairwise([*dict.fromkeys(cuts), len(self.start)]):
            if begin < end:
                piece = Runs(self.start[begin:end], self.end[begin:end], self.value[begin:end])
                piece._spread_at_once(values, start, empty)

    def _spread_at_once(self, values: NDArray[np.float32], start: int, empty: float) -> None:
        first, last = int(self.start[0]), int(self.end[-1])
        widths = self.end - self.start
        covered = int(widths.sum())
        if covered < (last - first) // 2:
            values[join_ranges(self.start, self.end - self.start) - start] = np.repeat(
                self.value, self.end - self.start
            )
            return
        next_start = np.append(self.start[1:], last)
        values[first - start : last - start] = np.repeat(self.value, next_start - self.start)
        if covered < last - first:
            values[join_ranges(self.end, next_start - self.end) - start] = empty


class RunBins:
    """Sums or greatest values of runs in bins side by side, filled batch by batch, in float64."""

    def __init__(self, start: int, num_bins: int, bin_bp: int, *, greatest: bool) -> None:
        self._start, self._bin_bp = start, bin_bp
        self._combine = np.maximum if greatest else np.add
        self.number = np.full(num_bins, -np.inf if greatest else 0.0)
        """Greatest value of each bin's bases, -inf where there is none; or their sum, [N]."""
        self.covered_bp = np.zeros(num_bins, np.int64)
        """Bases of each bin that have a value, [N]."""

    def add(self, runs: Runs) -> None:
        """Add runs that lie in the bins, NaN among them as if they were not there."""
        if np.isnan(runs.value).any():
            present = ~np.isnan(runs.value)
            runs = Runs(runs.start[present], runs.end[present], runs.value[present])
        if not len(runs.start):
            return
        begin = int(runs.start[0]) - self._start
        if int(runs.end[-1]) - self._start - begin == len(runs.value):  # one base each, side by side
            self._add_bases(begin, runs.value)
            return
        start, end = (runs.start - self._start).astype(np.int32), (runs.end - self._start).astype(np.int32)
        bins = start // self._bin_bp
        edge = (bins + 1) * self._bin_bp
        self._add_pieces(bins, np.minimum(end, edge) - start, runs.value)
        beyond = np.flatnonzero(end > edge)
        if len(beyond):
            self._add_beyond(edge[beyond], end[beyond], runs.value[beyond])

    def _add_bases(self, begin: int, value: NDArray[np.float32]) -> None:
        """Add the values of bases side by side, the first of which is base `begin` of the bins."""
        bins = slice(begin // self._bin_bp, (begin + len(value) - 1) // self._bin_bp + 1)
        heads = np.maximum(np.arange(bins.start, bins.stop) * self._bin_bp - begin, 0)
        self.covered_bp[bins] += np.diff(heads, append=len(value))
        value = value if self._combine is np.maximum else value.astype(np.float64)
        self.number[bins] = self._combine(self.number[bins], self._combine.reduceat(value, heads))

    def _add_beyond(self, edge: NDArray[np.int32], end: NDArray[np.int32], value: NDArray[np.float32]) -> None:
        """Add what of some runs lies behind the first bin edge that each crosses."""
        pieces = (end - edge - 1) // self._bin_bp + 1
        before = np.cumsum(pieces) - pieces
        bins = join_ranges(edge // self._bin_bp, pieces)
        widths = np.full(len(bins), self._bin_bp)
        widths[before + pieces - 1] = end - edge - (pieces - 1) * self._bin_bp
        self._add_pieces(bins, widths, np.repeat(value, pieces))

    def _add_pieces(self, bins: NDArray[np.integer], widths: NDArray[np.integer], value: NDArray[np.float32]) -> None:
        """Add pieces of runs, each inside one bin, the bins in order."""
        span = slice(int(bins[0]), int(bins[-1]) + 1)
        inner = bins - bins[0]
        self.covered_bp[span] += np.bincount(inner, widths).astype(np.int64)
        if self._combine is np.add:
            self.number[span] += np.bincount(inner, np.multiply(value, widths, dtype=np.float64))
        else:
            heads = np.flatnonzero(np.diff(bins, prepend=-1))
            self.number[bins[heads]] = np.maximum(self.number[bins[heads]], np.maximum.reduceat(value, heads))
