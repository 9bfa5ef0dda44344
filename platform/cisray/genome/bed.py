"""Read BED and its kin (narrowPeak, sequences.bed) as columns, and put intervals in genome order."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, check_is_file, open_unpacked

NO_INTERVALS = (b"#", b"track ", b"browser ")
"""How lines begin that are no intervals: comments, and what genome browsers put at the top of a file."""

_POSITION = re.compile(r" *-?[0-9]+ *")
_PART_LINES = 1 << 16  # whose further columns wait as separate texts, until they are packed
_LARGEST = int(np.iinfo(np.int64).max)


class Bed(NamedTuple):
    """The intervals of a BED file, in the file's order."""

    path: Path
    contigs: list[str]
    """The contig names that occur, in the order in which they first do."""
    contig: NDArray[np.int32]
    """Each interval's contig as a position in `contigs`, [M]."""
    start: NDArray[np.int64]
    """0-based, [M]."""
    end: NDArray[np.int64]
    """Half-open, [M]."""
    columns: list[pa.Array]
    """The text of every column after the third that all lines have, [M] each; see `column`."""
    line: NDArray[np.int64]
    """The number of each interval's line in the file, from 1, [M]."""

    def __len__(self) -> int:
        return len(self.start)

    def where(self, row: int) -> str:
        """Return where a row stands and what it says, for an error."""
        return (
            f"{self.path}: line {self.line[row]} ({self.contigs[self.contig[row]]}:{self.start[row]}-{self.end[row]})"
        )

    def column(self, number: int, *, called: str) -> NDArray[np.str_]:
        """Return the text of column `number` (from 1, at least 4), [M]; raise InputError where lines lack it."""
        if number - 4 >= len(self.columns):
            raise InputError(f"{self.path}: {3 + len(self.columns)} columns; wanted the {called} in column {number}")
        return np.array(self.columns[number - 4].to_pylist(), np.str_)


def read_bed(path: Path | str) -> Bed:
    """Read a BED file, plain, gzip or bgzip, its columns parted by tabs or else by blanks.

    Raises:
        InputError: the file is missing, truncated or holds no interval; or a line has fewer than three columns, a
            position that is no number, a negative start, or an end that is not beyond its start.
    """
    path = Path(path)
    check_is_file(path, wanted="a BED file")
    check_bgzip_end(path)
    number_of: dict[str, int] = {}
    contig, start, end, line = [], [], [], []
    rest: list[list[str]] = []
    parts: list[list[pa.Array]] = []
    try:
        for number, fields in _lines(path):
            first, last = _positions(path, number, fields)
            contig.append(number_of.setdefault(fields[0], len(number_of)))
            start.append(first)
            end.append(last)
            line.append(number)
            rest.append(fields[3:])
            if len(rest) == _PART_LINES:
                parts.append(_packed(rest))
                rest = []
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; wanted BED: contig, start and end, parted by tabs") from None
    if not line:
        raise InputError(f"{path}: holds no interval; wanted lines of contig, start and end, parted by tabs")
    if rest:
        parts.append(_packed(rest))
    return Bed(
        path=path,
        contigs=list(number_of),
        contig=np.array(contig, np.int32),
        start=np.array(start, np.int64),
        end=np.array(end, np.int64),
        columns=[pa.concat_arrays(column) for column in zip(*parts, strict=False)],
        line=np.array(line, np.int64),
    )


def rows_by_contig(bed: Bed, names: Mapping[str, str]) -> dict[str, NDArray[np.int64]]:
    """Return each genome contig's rows sorted by start and end; `names` maps the file's contigs to the genome's.

    Rows of a contig that is not in `names` are left out: to count or refuse them is the caller's.
    """
    found = {}
    for index, foreign in enumerate(bed.contigs):
        if foreign in names:
            rows = np.flatnonzero(bed.contig == index)
            found[names[foreign]] = rows[np.lexsort((bed.end[rows], bed.start[rows]))]
    return found


def merge_intervals(start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Join intervals of one contig, sorted by start, that overlap or touch; return their starts and ends."""
    if not len(start):
        return start, end
    reach = np.maximum.accumulate(end)
    first = np.flatnonzero(np.r_[True, start[1:] > reach[:-1]])
    return start[first], reach[np.r_[first[1:] - 1, len(end) - 1]]


def overlap_bp(
    start: NDArray[np.int64], end: NDArray[np.int64], *, of_start: NDArray[np.int64], of_end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many bases of each interval (of_start, of_end) [Q] lie in merged intervals (start, end) [M]."""

    def covered_before(position: NDArray[np.int64]) -> NDArray[np.int64]:
        before = np.searchsorted(start, position, side="right") - 1  # the last interval that starts at or before
        total = np.r_[0, np.cumsum(end - start)]
        inside = np.minimum(position, end[np.maximum(before, 0)]) - start[np.maximum(before, 0)]
        return np.where(before >= 0, total[np.maximum(before, 0)] + inside, 0)

    if not len(start):
        return np.zeros(len(of_start), np.int64)
    return covered_before(of_end) - covered_before(of_start)


def _packed(rest: list[list[str]]) -> list[pa.Array]:
    """Return the columns that all of some lines have: one after the other, text takes as much memory as in the file."""
    return [pa.array([fields[index] for fields in rest], pa.large_string()) for index in range(min(map(len, rest)))]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open_unpacked(path) as handle:
        for number, raw in enumerate(handle, start=1):
            if raw.strip() and not raw.startswith(NO_INTERVALS):
                text = raw.decode("utf-8").rstrip("\r\n")
                yield number, text.split("\t") if "\t" in text else text.split()


def _positions(path: Path, number: int, fields: list[str]) -> tuple[int, int]:
    if len(fields) < 3:
        raise InputError(f"{path}: line {number}: {len(fields)} columns; wanted contig, start and end, parted by tabs")
    if not fields[0]:
        raise InputError(f"{path}: line {number}: names no contig; wanted contig, start and end, parted by tabs")
    if not (_POSITION.fullmatch(fields[1]) and _POSITION.fullmatch(fields[2])):
        raise InputError(
            f"{path}: line {number}: {fields[1]!r} to {fields[2]!r} are not positions; wanted contig, start and end"
        )
    start, end = int(fields[1]), int(fields[2])
    if end > _LARGEST:
        raise InputError(f"{path}: line {number}: ends at {end}, beyond any contig; mend the line")
    if start < 0:
        raise InputError(f"{path}: line {number}: starts at {start}; BED counts bases from 0, so none is negative")
    if end <= start:
        raise InputError(
            f"{path}: line {number}: {fields[0]}:{start}-{end} holds no base; BED ends behind the last base "
            "(0-based half-open)"
        )
    return start, end
