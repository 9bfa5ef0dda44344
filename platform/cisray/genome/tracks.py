"""Read and write the signal of a track, smooth it, and sum it up in bins."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import pyBigWig
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.bigwig import is_bigwig, open_bigwig, read_runs
from cisray.genome.coverage import Coverage, check_ends, coverage_kind, read_coverage
from cisray.genome.intervals import suggest_names
from cisray.genome.runs import RunBins, Runs

Statistic = Literal["sum", "mean", "max", "median"]
"""How the bases of a bin become one number."""
Uncovered = Literal["zero", "mask"]
"""What a base without signal is: a zero, or missing."""
_PIECE_BP = 1 << 15  # fits a core's cache as float32 and as float64
_LEAST_RUN_BIN_BP = 4  # smaller bins are made faster from bases than from runs
_SHORT_BIN_BP = 32  # up to here numpy sums faster across rows than along them


class Signal(ABC):
    """A file of signal; nothing of it stays open between two reads, and it may be sent to another process."""

    path: Path
    contig_lengths: Mapping[str, int | None]
    """Bases of each contig, by the file's own names, in the file's order; None where the file does not tell."""
    _empty = np.nan  # the value of a base without signal

    @abstractmethod
    def _runs(self, contig: str, start: int, end: int) -> Iterable[Runs]:
        """Give what there is of an interval inside the contig, cut at its ends."""

    @abstractmethod
    def check_lengths(self, contig_lengths: Mapping[str, int]) -> None:
        """Check the file against lengths of its contigs (by its own names), and take them where it tells none.

        Raises InputError for another length, or for a line that ends beyond its contig.
        """

    def values(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Return the signal [end-start] of an interval, NaN where there is none and beyond the contig's ends.

        Of a BED file it is the number of intervals over each base, 0 where there is none.
        Raises InputError for an unknown contig, and for a file that is damaged there.
        """
        first, last = self._inside(contig, start, end)
        values = np.full(end - start, np.nan, np.float32)
        if self._empty == 0.0:
            values[first - start : last - start] = 0.0
        if first < last:
            for runs in self._runs(contig, first, last):
                runs.spread(values, start, empty=self._empty)
        return values

    def bins(
        self, contig: str, start: int, num_bins: int, bin_bp: int, *, statistic: Statistic, uncovered: Uncovered
    ) -> NDArray[np.float32]:
        """Return `num_bins` bins from `start` on, computed in float64 from runs and not from bases: many times faster.

        They are those of `bin_values`, but for one thing: bases beyond the contig's ends are left out with "zero" too.
        Raises what `values` raises.
        """
        end = start + num_bins * bin_bp
        first, last = self._inside(contig, start, end)
        _check_binning(num_bins * bin_bp, bin_bp, statistic, uncovered)
        if statistic == "median" or bin_bp < _LEAST_RUN_BIN_BP:
            values = self.values(contig, start, end)
            if uncovered == "zero":
                inside = values[first - start : last - start]
                inside[np.isnan(inside)] = 0.0
            return bin_values(values, bin_bp, statistic, "mask")
        found = RunBins(start, num_bins, bin_bp, greatest=statistic == "max")
        if first < last:
            for runs in self._runs(contig, first, last):
                found.add(runs)
        if uncovered == "mask" and self._empty != 0.0:
            return _finish(found.number, found.covered_bp, bin_bp, statistic)
        edges = np.clip(start + bin_bp * np.arange(num_bins + 1), first, last)
        inside_bp = np.diff(edges)
        if statistic == "max":
            zero = found.covered_bp < inside_bp
            found.number[zero] = np.maximum(found.number[zero], 0.0)
        return _finish(found.number, inside_bp, bin_bp, statistic)

    def _inside(self, contig: str, start: int, end: int) -> tuple[int, int]:
        """Check an interval, and return the first base of its part inside the contig, and the one behind its last."""
        if contig not in self.contig_lengths:
            raise InputError(f"{self.path}: no contig {contig!r}{suggest_names(contig, self.contig_lengths)}")
        if start > end:
            raise InputError(f"{self.path}: interval {contig}:{start}-{end} starts after its end")
        length = self.contig_lengths[contig]
        first = max(start, 0)
        return first, max(first, end if length is None else min(end, length))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing, as there is nothing to close: a file is open only while it is read."""
        return


class SignalFile(Signal):
    """A bigWig file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_bigwig(self.path)
        self.contig_lengths: Mapping[str, int] = self._file.contigs.lengths

    def check_lengths(self, contig_lengths: Mapping[str, int]) -> None:
        """Check that the file has contigs of these lengths; names that are not in both are passed over."""
        for name, length in self.contig_lengths.items():
            if contig_lengths.get(name, length) != length:
                raise InputError(
                    f"{self.path}: contig {name!r} has {length} bases there and {contig_lengths[name]} in the genome; "
                    "another assembly? Give the FASTA file that it was made with"
                )

    def _runs(self, contig: str, start: int, end: int) -> Iterable[Runs]:
        return read_runs(self._file, contig, start, end)


class CoverageFile(Signal):
    """A bedGraph file, or a BED file whose intervals are counted; each process parses it once."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._coverage: Coverage | None = read_coverage(self.path)
        self._empty = self._coverage.empty
        self.contig_lengths: Mapping[str, int | None] = dict.fromkeys(self._coverage.runs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_coverage": None}  # the columns are too much to send; the receiver parses the file

    def check_lengths(self, contig_lengths: Mapping[str, int]) -> None:
        """Check that all lines lie in contigs of these lengths, and take the lengths as those of the file."""
        check_ends(self._columns(), contig_lengths)
        self.contig_lengths = {name: contig_lengths.get(name) for name in self.contig_lengths}

    def _columns(self) -> Coverage:
        if self._coverage is None:
            self._coverage = read_coverage(self.path)
        return self._coverage

    def _runs(self, contig: str, start: int, end: int) -> Iterable[Runs]:
        return [self._columns().runs[contig].within(start, end)]


def open_signal(path: Path | str) -> Signal:
    """Open a bigWig file, which its first bytes tell, or a bedGraph or BED file, which its name tells."""
    path = Path(path)
    if coverage_kind(path) is not None and not is_bigwig(path):
        return CoverageFile(path)
    if path.is_file() and not is_bigwig(path):
        raise InputError(
            f"{path}: not a bigWig file, and not text of a name that tells its format; give a bigWig, or a bedGraph or "
            "BED file whose name ends in .bedgraph and .bed, with or without .gz"
        )
    return SignalFile(path)


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

    With "zero", bases without a value (NaN) count as 0. With "mask" they are left out: mean, median and
    maximum are those of the bases present, the sum is their mean times `bin_bp` (what the bin would hold
    were it covered alike), and a bin without any base present is NaN.
    """
    _check_binning(len(values), bin_bp, statistic, uncovered)
    if bin_bp == 1:
        return np.where(np.isnan(values), np.float32(np.nan if uncovered == "mask" else 0.0), values.astype(np.float32))
    table = values.reshape(-1, bin_bp)
    binned = np.empty(len(table), np.float32)
    step = max(1, _PIECE_BP // bin_bp)
    for first in range(0, len(table), step):
        binned[first : first + step] = _bin_piece(table[first : first + step], statistic, uncovered)
    return binned


def _bin_piece(table: NDArray[np.floating], statistic: Statistic, uncovered: Uncovered) -> NDArray[np.float32]:
    """Bin a piece [N, bin_bp] that fits a core's cache; bins that turn out NaN are looked at again."""
    bin_bp = table.shape[1]
    numbers = _combine(table, statistic)
    covered_bp = np.full(len(table), bin_bp)
    lacking = np.flatnonzero(np.isnan(numbers))
    covered_bp[lacking] -= np.isnan(table[lacking]).sum(axis=1)
    partly = lacking[(covered_bp[lacking] > 0) & (covered_bp[lacking] < bin_bp)]
    if statistic == "median" and uncovered == "mask":
        numbers[partly] = np.nanmedian(table[partly].astype(np.float64), axis=1)
    else:
        nothing = -np.inf if statistic == "max" and uncovered == "mask" else 0.0
        numbers[partly] = _combine(np.where(np.isnan(table[partly]), nothing, table[partly]), statistic)
    if uncovered == "zero":
        numbers[covered_bp == 0] = 0.0
        covered_bp[:] = bin_bp
    return _finish(numbers, covered_bp, bin_bp, statistic)


def _combine(table: NDArray[np.floating], statistic: Statistic) -> NDArray[np.float64]:
    """Return the sum, for the mean too, the maximum or the median of each row, NaN where it holds a NaN."""
    if statistic == "median":
        return np.median(table.astype(np.float64), axis=1)
    kind = table.dtype if statistic == "max" else np.float64
    reduce = np.maximum.reduce if statistic == "max" else np.add.reduce
    if table.shape[1] > _SHORT_BIN_BP:
        return reduce(table, axis=1, dtype=kind).astype(np.float64)
    return reduce(np.ascontiguousarray(table.T, kind), axis=0).astype(np.float64)


def _finish(
    numbers: NDArray[np.float64], covered_bp: NDArray[np.int64], bin_bp: int, statistic: Statistic
) -> NDArray[np.float32]:
    """Make what was found in each bin's covered bases its statistic; NaN where none is covered."""
    if statistic in ("sum", "mean"):
        # the full bin is left as it is, so that its sum is exact
        numbers = numbers / (np.maximum(covered_bp, 1) / (bin_bp if statistic == "sum" else 1))
    with np.errstate(over="ignore"):  # infinite in float32: for the caller to tell, who knows what may be
        return np.where(covered_bp > 0, numbers, np.nan).astype(np.float32)


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


def _check_binning(num_bases: int, bin_bp: int, statistic: str, uncovered: str) -> None:
    if statistic not in get_args(Statistic):
        raise InputError(f"statistic {statistic!r} is not one of {', '.join(get_args(Statistic))}")
    if uncovered not in get_args(Uncovered):
        raise InputError(f"uncovered {uncovered!r} is not one of {', '.join(get_args(Uncovered))}")
    if bin_bp < 1 or num_bases % bin_bp:
        raise InputError(f"{num_bases} bases do not fill bins of {bin_bp} bp; give a multiple of the bin")


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
