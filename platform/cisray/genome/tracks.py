"""Read and write the signal of a track, smooth it, and sum it up in bins."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
import pyBigWig
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.bigwig import check_blocks, read_index
from cisray.genome.intervals import suggest_names

Statistic = Literal["sum", "mean", "max"]
"""How the bases of a bin become one number."""
Uncovered = Literal["zero", "mask"]
"""What a base without signal is: a zero, or missing."""


class SignalFile:
    """A bigWig file, open for reading; each thread and process opens its own."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._index = read_index(self.path)
        self.contig_lengths: dict[str, int] = self._index.contig_lengths
        """Bases of each contig, by the file's own names, in the file's order."""
        try:
            self._file = pyBigWig.open(str(self.path))
        except RuntimeError as error:
            raise InputError(f"{self.path}: not a readable bigWig file ({error}); copy or make it again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its values can no longer be read."""
        self._file.close()

    def values(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Return the signal [end-start] of an interval, NaN where there is none and beyond the contig's ends.

        Raises InputError for an unknown contig, and for a file that is damaged there.
        """
        if contig not in self.contig_lengths:
            raise InputError(f"{self.path}: no contig {contig!r}{suggest_names(contig, self.contig_lengths)}")
        if start > end:
            raise InputError(f"{self.path}: interval {contig}:{start}-{end} starts after its end")
        values = np.full(end - start, np.nan, np.float32)
        first, last = max(start, 0), min(end, self.contig_lengths[contig])
        if first >= last or not len(self._index.blocks):  # pyBigWig answers [] where a file has no values at all
            return values
        check_blocks(self.path, self._index, contig, first, last)
        try:
            values[first - start : last - start] = self._file.values(contig, first, last, numpy=True)
        except RuntimeError as error:
            raise InputError(
                f"{self.path}: damaged, cannot read {contig}:{first}-{last} ({error}); copy or make it again"
            ) from error
        return values


def write_signal(
    path: Path,
    contig_lengths: Mapping[str, int],
    signal: Mapping[str, tuple[NDArray[np.integer], NDArray[np.floating]]],
    *,
    step_bp: int,
) -> None:
    """Write starts [M] and values [M] of each contig, one value per step, as a bigWig file, whole or not at all.

    Steps whose value is NaN are left uncovered; a step that crosses its contig's end is cut there. Raises
    InputError for an unknown contig, and for steps that overlap, are out of order or lie outside.
    """
    for contig, (starts, values) in signal.items():
        _check_steps(contig, starts, values, contig_lengths=contig_lengths, step_bp=step_bp)
    with written_whole(path) as aside:
        file = pyBigWig.open(str(aside), "w")
        file.addHeader(list(contig_lengths.items()))
        for contig in (name for name in contig_lengths if name in signal):
            starts, values = (column[~np.isnan(signal[contig][1])] for column in signal[contig])
            cuts = np.flatnonzero(np.diff(starts) != step_bp) + 1
            if len(starts) and starts[-1] + step_bp > contig_lengths[contig]:
                cuts = np.union1d(cuts, len(starts) - 1)  # the step that is cut has a width of its own
            for run, run_values in zip(np.split(starts, cuts), np.split(values.astype(np.float64), cuts), strict=True):
                if len(run):
                    width = min(step_bp, contig_lengths[contig] - int(run[0]))
                    file.addEntries(contig, int(run[0]), values=run_values, span=width, step=width)
        file.close()


def smooth(values: NDArray[np.floating], width_bp: int) -> NDArray[np.float32]:
    """Return the centred running mean [L] over the bases that have a value, NaN where a window has none.

    The window of base i is [i - width // 2, i - width // 2 + width): of even widths the left half is the
    longer one. At both ends of `values` it holds the bases that there are. Computed in float64.
    """
    if width_bp < 1:
        raise InputError(f"cannot smooth over {width_bp} bp; give a width of 1 or more")
    present = ~np.isnan(values)
    total = _window_sums(np.where(present, values, 0.0), width_bp)
    count = _window_sums(present.astype(np.float64), width_bp)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def bin_values(
    values: NDArray[np.floating], bin_bp: int, statistic: Statistic, uncovered: Uncovered
) -> NDArray[np.float32]:
    """Return one number per bin [L / bin_bp], computed in float64.

    With "zero", bases without a value (NaN) count as 0. With "mask" they are left out: the mean and the
    maximum are those of the bases present, the sum is that mean times `bin_bp` (what the bin would hold
    were it covered alike), and a bin without any base present is NaN.
    """
    _check_binning(values, bin_bp, statistic, uncovered)
    table = values.reshape(-1, bin_bp).astype(np.float64)
    present = ~np.isnan(table)
    if uncovered == "zero":
        table, present = np.where(present, table, 0.0), np.ones_like(present)
    count = present.sum(axis=1)
    if statistic == "max":
        best = np.where(present, table, -np.inf).max(axis=1)
        return np.where(count > 0, best, np.nan).astype(np.float32)
    total = np.where(present, table, 0.0).sum(axis=1)
    # the full bin is left as it is, so that its sum is exact
    share = np.maximum(count, 1) / (bin_bp if statistic == "sum" else 1)
    return np.where(count > 0, total / share, np.nan).astype(np.float32)


def _check_steps(
    contig: str,
    starts: NDArray[np.integer],
    values: NDArray[np.floating],
    *,
    contig_lengths: Mapping[str, int],
    step_bp: int,
) -> None:
    if contig not in contig_lengths:
        raise InputError(f"signal to write lies on contig {contig!r}{suggest_names(contig, contig_lengths)}")
    if len(starts) != len(values) or step_bp < 1:
        raise InputError(f"{contig}: {len(starts)} starts and {len(values)} values in steps of {step_bp} bp do not fit")
    if (np.diff(starts) < step_bp).any():
        raise InputError(
            f"{contig}: steps of {step_bp} bp overlap or are out of order; a bigWig has one value per base"
        )
    if len(starts) and not 0 <= starts[0] <= starts[-1] < contig_lengths[contig]:
        raise InputError(
            f"{contig}: steps from {starts[0]} to {starts[-1]} lie outside its {contig_lengths[contig]} bases"
        )


def _check_binning(values: NDArray[np.floating], bin_bp: int, statistic: str, uncovered: str) -> None:
    if statistic not in get_args(Statistic):
        raise InputError(f"statistic {statistic!r} is not one of {', '.join(get_args(Statistic))}")
    if uncovered not in get_args(Uncovered):
        raise InputError(f"uncovered {uncovered!r} is not one of {', '.join(get_args(Uncovered))}")
    if bin_bp < 1 or len(values) % bin_bp:
        raise InputError(f"{len(values)} bases do not fill bins of {bin_bp} bp; give a multiple of the bin")


def _window_sums(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the sum [L] of the `width` values around each, taking those beyond the ends as 0.

    Cut into blocks of `width`, every window is the end of one block and the start of the next. Unlike
    differences of one long running sum, these sums carry no error from afar: zeros sum to exactly 0.
    """
    left = width // 2
    blocks = -(-(len(values) + width) // width)
    padded = np.zeros(blocks * width)
    padded[left : left + len(values)] = values
    table = padded.reshape(blocks, width)
    from_start = table.cumsum(axis=1).ravel()
    to_end = table[:, ::-1].cumsum(axis=1)[:, ::-1].ravel()
    first = np.arange(len(values))  # where each window starts in `padded`
    last = first + width - 1
    return np.where(first % width == 0, 0.0, to_end[first]) + from_start[last]
