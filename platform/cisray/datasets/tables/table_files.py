"""Read tables of measured sequences, part by part: CSV, TSV, Parquet and FASTA, plain or gzip, told by their content.

Every part is an Arrow table of the columns asked for; what a text file holds stays text. The records of a FASTA file
are rows of these columns: `id` (the first word of the header), `description` (the header), `sequence`, and one for each
named group of `header_pattern`.
"""

import csv
import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, open_unpacked
from cisray.genome.intervals import suggest_names

_PARQUET_MAGIC = b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 8 << 20
_FASTA_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableFile:
    """One file of a table."""

    path: str
    """Below data_dir."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a text file that has no header line."""
    delimiter: str | None = None
    """What parts the columns of a text file; None: tabs if its first line has one, else commas."""
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    """What this file calls a column, by the name that the other settings use: expression = "meanEL.mut"."""
    values: dict[str, str | int | float] = dataclasses.field(default_factory=dict)
    """Columns that have one value in the whole file: active = 1."""
    header_pattern: str | None = None
    r"""Regular expression found in every header of a FASTA file; its named groups are columns: class:(?P<bound>\d)."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise InputError(f"{self.path}: delimiter={self.delimiter!r}; wanted one character")
        if self.header_pattern is not None:
            try:
                groups = re.compile(self.header_pattern).groupindex
            except re.error as error:
                raise InputError(
                    f"{self.path}: header_pattern={self.header_pattern!r} is no regular expression: {error}"
                ) from None
            if not groups:
                raise InputError(
                    f"{self.path}: header_pattern={self.header_pattern!r} names no group; write (?P<name>...) around "
                    "what is to be a column"
                )


def read_parts(file: TableFile, path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield a file's rows in their order, with these columns; raise InputError where one is missing or unreadable."""
    theirs = {name: file.rename.get(name, name) for name in columns if name not in file.values}
    wanted = list(dict.fromkeys(theirs.values()))  # one column of the file may be two of ours
    if path.is_dir():
        raise InputError(f"{path}: a folder; wanted a file, so name each of its files in files")
    try:
        check_bgzip_end(path)
        with open_unpacked(path) as handle:
            start = handle.read(len(_PARQUET_MAGIC))
        if start == _PARQUET_MAGIC:
            parts = _parquet_parts(path, wanted)
        elif start.startswith(b">"):
            parts = _fasta_parts(file, path, wanted)
        else:
            parts = _text_parts(file, path, wanted)
        for part in parts:
            part = part.select(list(theirs.values())).rename_columns(list(theirs))
            for name, value in file.values.items():
                if name in columns:
                    part = part.append_column(name, pa.repeat(str(value), len(part)))
            yield part.select(list(columns))
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable table ({error}); correct that row, or set its delimiter") from error
    except OSError as error:  # what Arrow raises for packed pages that do not unpack
        raise InputError(f"{path}: damaged or not readable ({error}); copy or make it again") from error


def _check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            raise InputError(
                f"{path}: no column {name!r}{suggest_names(name, found)}; say which file calls it what in rename"
            )
        if list(found).count(name) > 1:
            raise InputError(f"{path}: two columns are called {name!r}; give each its own name")


def _parquet_parts(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    _check_columns(path, columns, file.schema_arrow.names)
    for batch in file.iter_batches(columns=columns):
        yield pa.Table.from_batches([batch])


def _text_parts(file: TableFile, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with open_unpacked(path) as handle:
        line = handle.readline()
    if not line.strip():
        raise InputError(f"{path}: its first line is empty; wanted a table of columns, or FASTA")
    delimiter = file.delimiter or ("\t" if b"\t" in line else ",")
    if not file.columns:
        try:
            text = line.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file; wanted CSV, TSV, Parquet or FASTA, plain or gzip") from None
        try:
            names = next(csv.reader([text], delimiter=delimiter))
        except csv.Error as error:
            raise InputError(
                f"{path}: its first line is no header ({error}); wanted names, and lines ended by a line feed"
            ) from error
    else:
        names = list(file.columns)
    _check_columns(path, columns, names)
    with open_unpacked(path) as handle:
        yield from _csv_parts(handle, names, columns, delimiter=delimiter, skip=0 if file.columns else 1)


def _csv_parts(
    handle: BinaryIO, names: list[str], columns: list[str], *, delimiter: str, skip: int
) -> Iterator[pa.Table]:
    # columns are told by number, because two that nobody asked for may share a name
    number = {name: str(names.index(name)) for name in columns}
    reader = pcsv.open_csv(
        handle,
        read_options=pcsv.ReadOptions(
            column_names=[str(index) for index in range(len(names))],
            skip_rows=skip,
            block_size=_BLOCK_BYTES,
            use_threads=False,
        ),
        parse_options=pcsv.ParseOptions(delimiter=delimiter),
        convert_options=pcsv.ConvertOptions(
            include_columns=list(number.values()),
            column_types=dict.fromkeys(number.values(), pa.string()),
            strings_can_be_null=False,
        ),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch]).rename_columns(columns)


def _fasta_parts(file: TableFile, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    pattern = re.compile(file.header_pattern) if file.header_pattern else None
    known = ["id", "description", "sequence", *(pattern.groupindex if pattern else ())]
    _check_columns(path, columns, list(dict.fromkeys(known)))
    number, source = 0, _fasta_records(path)
    while records := list(islice(source, _FASTA_ROWS)):
        rows = []
        for header, bases in records:
            number += 1
            row = {"id": header.split()[0] if header else "", "description": header, "sequence": bases}
            if pattern:
                found = pattern.search(header)
                if not found:
                    raise InputError(
                        f"{path}: record {number}: header {header!r} does not fit header_pattern {pattern.pattern!r}"
                    )
                row |= {name: value or "" for name, value in found.groupdict().items()}
            rows.append(row)
        yield pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns})


def _fasta_records(path: Path) -> Iterator[tuple[str, str]]:
    header, lines = None, list[bytes]()
    try:
        with open_unpacked(path) as handle:
            for line in handle:
                if line.startswith(b">"):
                    if header is not None:
                        yield header, b"".join(lines).decode()
                    header, lines = line[1:].decode().strip(), []
                else:
                    lines.append(line.strip())
        if header is not None:
            yield header, b"".join(lines).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; wanted FASTA, plain or gzip") from None
