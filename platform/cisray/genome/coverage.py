"""Read signal from text: bedGraph as it stands, BED as the number of intervals over each base."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from cisray.errors import InputError
from cisray.genome.bed import NO_INTERVALS
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, check_is_file, open_unpacked
from cisray.genome.runs import Runs

BED_GRAPH_ENDINGS = (".bedgraph", ".bdg", ".bg")
BED_ENDINGS = (".bed", ".narrowpeak", ".broadpeak")
_BLOCK_BYTES = 1 << 24  # of text, parsed at once
_LARGEST = int(np.iinfo(np.int32).max)
_TYPES = {"contig": pa.dictionary(pa.int32(), pa.string()), "start": pa.int32(), "end": pa.int32()}
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_CURE = "sort the file: sort -k1,1 -k2,2n"
_Columns = tuple[NDArray, ...]  # start, end and, of bedGraph, value


class Coverage(NamedTuple):
    """The signal of a text file, 12 bytes a line of bedGraph."""

    path: Path
    runs: dict[str, Runs]
    """Of each contig, by the file's own names, in the order in which they first occur."""
    empty: float
    """The value of a base in no run: NaN in bedGraph, 0 in BED."""


class _Lines(NamedTuple):
    """How the lines of a file are to be read."""

    path: Path
    kind: str
    first: int
    """Lines before the first that is data."""
    columns: int
    separator: str


def coverage_kind(path: Path) -> str | None:
    """Return "bedGraph" or "BED" for a file whose name ends as theirs do, with or without .gz or .bgz."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    if name.endswith(BED_GRAPH_ENDINGS):
        return "bedGraph"
    return "BED" if name.endswith(BED_ENDINGS) else None


def read_coverage(path: Path) -> Coverage:
    """Read a bedGraph or BED file, plain, gzip or bgzip, told apart by its name; once, however often it is asked for.

    Lines are sorted; those of bedGraph do not overlap, and of BED the columns after the third do not count. Lines
    that begin with #, track or browser may only stand on top.

    Raises:
        InputError: the file is missing, truncated or holds no line of data; or a line is not what it should be.
    """
    check_is_file(path, wanted="a bedGraph or BED file")
    status = path.stat()
    return _read_coverage(path, status.st_size, status.st_mtime_ns)


def check_ends(coverage: Coverage, contig_lengths: Mapping[str, int]) -> None:
    """Check that all runs lie in contigs of these lengths; raises InputError that names the line of one that does not.

    Contigs that `contig_lengths` does not name are not checked.
    """
    wrong = {name for name, runs in coverage.runs.items() if runs.end[-1] > contig_lengths.get(name, _LARGEST)}
    if not wrong:
        return
    lines = _look_at_top(coverage.path)
    for number, text in _data_lines(lines):
        contig, _, end, *_ = text.split(lines.separator)
        if contig in wrong and int(end) > contig_lengths[contig]:
            raise InputError(
                f"{coverage.path}: line {number} ({text[:80]!r}) ends beyond {contig}, which has "
                f"{contig_lengths[contig]} bases; another assembly? Give the FASTA file that it was made with"
            )


@lru_cache(maxsize=16)  # a file that is opened for every shard is still parsed once
def _read_coverage(path: Path, size_bytes: int, changed_ns: int) -> Coverage:
    check_bgzip_end(path)
    try:
        lines = _look_at_top(path)
        parts: dict[str, list[_Columns]] = {}
        for batch in _parsed(lines):
            _sort_in(lines, batch, parts)
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; wanted {coverage_kind(path)}") from None
    if lines.kind == "BED":
        return Coverage(path, {contig: _depth(*_joined(parts.pop(contig))) for contig in list(parts)}, 0.0)
    return Coverage(path, {contig: Runs(*_joined(parts.pop(contig))) for contig in list(parts)}, np.nan)


def _look_at_top(path: Path) -> _Lines:
    """Find the first line of data, and how its columns are parted."""
    kind = coverage_kind(path)
    if kind is None:
        raise InputError(f"{path}: neither bedGraph nor BED by its name; wanted one that ends in .bedgraph or .bed")
    with open_unpacked(path) as handle:
        for number, raw in enumerate(handle):
            if not raw.strip() or raw.startswith(NO_INTERVALS):
                continue
            text = raw.decode("utf-8").rstrip("\r\n")
            separator = "\t" if "\t" in text else " "
            return _Lines(path, kind, number, text.count(separator) + 1, separator)
    raise InputError(f"{path}: holds no line of data; wanted {kind}")


def _parsed(lines: _Lines) -> Iterator[pa.RecordBatch]:
    """Give columns contig, start, end and, of bedGraph, value."""
    types = _TYPES | ({"value": pa.float32()} if lines.kind == "bedGraph" else {})
    rest = [f"column {number}" for number in range(len(types) + 1, lines.columns + 1)]
    if lines.columns < len(types) or (rest and lines.kind == "bedGraph"):
        raise _first_fault(lines, "its columns are not those of its kind")
    with open_unpacked(lines.path) as handle:
        try:
            yield from csv.open_csv(
                pa.PythonFile(handle, mode="r"),
                read_options=csv.ReadOptions(
                    use_threads=False,
                    block_size=_BLOCK_BYTES,
                    skip_rows=lines.first,
                    column_names=[*types, *rest],
                ),
                parse_options=csv.ParseOptions(delimiter=lines.separator, quote_char=False),
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise _first_fault(lines, str(error)) from None


def _sort_in(lines: _Lines, batch: pa.RecordBatch, parts: dict[str, list[_Columns]]) -> None:
    """Check the lines of a batch, and add them to the columns of their contigs."""
    contig, *others = batch.columns
    names, codes = contig.dictionary.to_pylist(), contig.indices.to_numpy()
    columns = [column.to_numpy() for column in others]
    start, end = columns[:2]
    present = list(dict.fromkeys(codes.tolist())) if (codes[1:] != codes[:-1]).any() else codes[:1].tolist()
    wrong = (start < 0).any() or (end <= start).any() or any(names[code][:1] in ("", "#") for code in present)
    # lines of bedGraph may not overlap, those of BED may
    limit = 1 if lines.kind == "bedGraph" else 0
    turns = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    back = [names[code] in parts for code in present[1:]]
    if parts and names[present[0]] in parts:
        last = next(reversed(parts))
        back.append(names[present[0]] != last or start[0] < parts[last][-1][limit][-1])
    disorder = start[1:] < columns[limit][:-1]
    disorder[turns - 1] = False
    wrong = wrong or any(back) or len(turns) >= len(present) or disorder.any()
    wrong = wrong or (lines.kind == "bedGraph" and not np.isfinite(columns[2]).all())
    if wrong:
        raise _first_fault(lines, "its lines are not in order")
    for code in present:
        rows = codes == code if len(present) > 1 else slice(None)
        parts.setdefault(names[code], []).append(tuple(column[rows] for column in columns))


def _joined(parts: list[_Columns]) -> _Columns:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _depth(start: NDArray[np.int32], end: NDArray[np.int32]) -> Runs:
    """Return how many intervals lie over each base, as runs of 1 and more."""
    start, end = np.sort(start), np.sort(end)
    position = np.unique(np.concatenate([start, end]))
    depth = np.searchsorted(start, position, side="right") - np.searchsorted(end, position, side="right")
    covered = np.flatnonzero(depth)  # never the last, behind which no interval goes on
    return Runs(position[covered], position[covered + 1], depth[covered].astype(np.float32))


def _data_lines(lines: _Lines) -> Iterator[tuple[int, str]]:
    """Give the number, from 1, and the text of each line from the first of data on."""
    with open_unpacked(lines.path) as handle:
        for number, raw in islice(enumerate(handle, start=1), lines.first, None):
            text = raw.decode("utf-8").rstrip("\r\n")
            if text:
                yield number, text


def _first_fault(lines: _Lines, otherwise: str) -> InputError:
    """Go through a file whose lines are known to be wrong, slowly, and say which is the first, and why."""
    done: set[str] = set()
    last: tuple[str, int, int] | None = None
    for number, text in _data_lines(lines):
        fields = text.split(lines.separator)
        fault = _line_fault(lines, text, fields)
        if fault is None:
            here = (fields[0], int(fields[1]), int(fields[2]))
            fault = _order_fault(lines, here, last, done)
            done.add(here[0])
            last = here
        if fault is not None:
            return InputError(f"{lines.path}: line {number} ({text[:80]!r}) {fault}")
    return InputError(f"{lines.path}: cannot be read as {lines.kind} ({otherwise})")


def _line_fault(lines: _Lines, text: str, fields: list[str]) -> str | None:
    """Say what is wrong with a line, whatever the others are."""
    if text.encode().startswith(NO_INTERVALS):
        return "is no data; comments and track lines may only stand on top, and a file holds one track: remove it"
    wanted = "4 columns, contig, start, end and value" if lines.kind == "bedGraph" else "contig, start and end"
    if len(fields) != lines.columns:
        return f"has {len(fields)} columns where the first line of data has {lines.columns}; wanted {wanted}"
    if not fields[0]:
        return f"names no contig; {lines.kind} has {wanted}, parted by one tab or blank each"
    if len(fields) < 3 or (lines.kind == "bedGraph" and len(fields) != 4):
        return f"has {len(fields)} columns; {lines.kind} has {wanted}, parted by one tab or blank each"
    if not all(_WHOLE_NUMBER.fullmatch(field) for field in fields[1:3]):
        return f"has {fields[1]!r} and {fields[2]!r} for a start and an end; wanted whole numbers"
    start, end = int(fields[1]), int(fields[2])
    if not 0 <= start < end <= _LARGEST:
        return f"spans {start}-{end}; wanted a start of 0 or more and an end beyond it (0-based half-open)"
    if lines.kind == "bedGraph":
        try:
            finite = abs(float(fields[3])) <= float(np.finfo(np.float32).max)
        except ValueError:
            finite = False
        if not finite:
            return f"has the value {fields[3]!r}; wanted a finite number, and no line where there is no signal"
    return None


def _order_fault(
    lines: _Lines, here: tuple[str, int, int], last: tuple[str, int, int] | None, done: set[str]
) -> str | None:
    """Say what is wrong with a line after the line `last`."""
    if last is None or last[0] != here[0]:
        return f"comes back to contig {here[0]}; {_CURE}" if here[0] in done else None
    if here[1] < last[1]:
        return f"starts before the line above it, {last[0]}:{last[1]}-{last[2]}; {_CURE}"
    if here[1] < last[2] and lines.kind == "bedGraph":
        return (
            f"overlaps the line above it, {last[0]}:{last[1]}-{last[2]}; a base has one value: merge them, or give "
            "intervals to count as .bed"
        )
    return None
