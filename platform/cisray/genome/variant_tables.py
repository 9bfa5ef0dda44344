"""Read variants of tables, TSV (plain, gzip or bgzip) and Parquet, with columns chrom, pos, ref, alt and maybe id."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, check_is_file, open_unpacked
from cisray.genome.variant_grammar import record_fault
from cisray.genome.variants import Record

_PARQUET_MAGIC = b"PAR1"
_BATCH_ROWS = 1 << 16
_BLOCK_BYTES = 1 << 22
_WANTED = "a line that names the columns chrom, pos, ref, alt and maybe id, parted by tabs"
_ALIASES = {
    "chrom": ("chrom", "chr", "chromosome", "contig"),
    "pos": ("pos", "position"),
    "ref": ("ref", "reference", "ref_allele", "reference_allele"),
    "alt": ("alt", "alternate", "alt_allele", "alternate_allele"),
    "id": ("id", "variant_id", "rsid", "snp"),
}


def is_table(path: Path) -> bool:
    """Tell a Parquet file, or a text whose first line names the columns of a variant table."""
    try:
        with open_unpacked(path) as handle:
            start = handle.read(len(_PARQUET_MAGIC))
            if start == _PARQUET_MAGIC:
                return True
            line = start + (b"" if b"\n" in start else handle.readline(1 << 16))
    except GZIP_ERRORS:
        return False
    if line.startswith((b"##", b"#CHROM\tPOS\tID\tREF\tALT")):
        return False  # a VCF header
    names = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return {"chrom", "pos"} <= {key for name in names if (key := _key_of(name)) is not None}


def read_table_records(path: Path | str) -> Iterator[Record]:
    """Give every row of a variant table, in the file's order.

    Positions are 1-based and alleles written as in VCF, several ALTs parted by commas. Column names count without
    their letter case and a leading "#"; further columns are not read.

    Raises:
        InputError: the file is missing, truncated, or lacks a column; or a row has a position that is no number, or
            alleles that VCF does not allow.
    """
    path = Path(path)
    check_is_file(path, wanted="a table of variants, TSV or Parquet,")
    with path.open("rb") as handle:
        is_parquet = handle.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    return _parquet_records(path) if is_parquet else _text_records(path)


def _key_of(name: str) -> str | None:
    """Return which of our columns a name means."""
    bare = name.strip().removeprefix("#").lower()
    return next((key for key, aliases in _ALIASES.items() if bare in aliases), None)


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Return where each of our columns stands among those of a file."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        key = _key_of(name)
        if key in found:
            raise InputError(f"{path}: the columns {names[found[key]]!r} and {name!r} both mean {key}; rename one")
        if key is not None:
            found[key] = index
    if missing := [key for key in ("chrom", "pos", "ref", "alt") if key not in found]:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; there are {', '.join(names)[:200]}; wanted {_WANTED}"
        )
    return found


def _text_records(path: Path) -> Iterator[Record]:
    check_bgzip_end(path)
    with open_unpacked(path) as handle:
        try:
            names = handle.readline().decode("utf-8").rstrip("\r\n").split("\t")
            columns = _columns(path, names)
            line = 2
            for block in _text_blocks(path, handle, names, columns):
                yield from _checked(path, block, what="line", first=line)
                line += len(block)
        except GZIP_ERRORS as error:
            raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file; wanted {_WANTED}") from None


def _text_blocks(path: Path, handle: BinaryIO, names: Sequence[str], columns: dict[str, int]) -> Iterator[pa.Table]:
    """Parse the lines after the first, block by block, into our columns."""
    line, rest = 2, b""
    while chunk := handle.read(_BLOCK_BYTES):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            block = _parsed(path, whole + newline, names, columns, line)
            yield block
            line += len(block)
    if rest:  # a last line without a newline; a cut one lacks columns, as any other would
        yield _parsed(path, rest, names, columns, line)


def _parsed(path: Path, text: bytes, names: Sequence[str], columns: dict[str, int], line: int) -> pa.Table:
    numbers = [str(number) for number in range(len(names))]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            # only one thread counts rows, for errors
            pyarrow.csv.ReadOptions(use_threads=False, column_names=numbers, block_size=len(text)),
            pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                include_columns=[str(index) for index in columns.values()],
                column_types={str(index): pa.string() for index in columns.values()},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        told = re.sub(r"Row #(\d+)", lambda row: f"line {line + int(row[1]) - 1}", str(error))
        raise InputError(f"{path}: {told}; mend the line, wanted {_WANTED}") from error
    return table.rename_columns(list(columns))


def _parquet_records(path: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names)
            names = {key: file.schema_arrow.names[index] for key, index in columns.items()}
            row = 1
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(names.values())):
                table = pa.table({key: _as_text(path, batch.column(name), name) for key, name in names.items()})
                yield from _checked(path, table, what="row", first=row)
                row += len(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); copy or make it again") from error


def _as_text(path: Path, column: pa.Array, name: str) -> pa.Array:
    """Return a column as text, in which a missing value is empty."""
    if pa.types.is_floating(column.type) or pa.types.is_nested(column.type):
        raise InputError(
            f"{path}: column {name!r} is of the type {column.type}; wanted text, or integers for positions"
        )
    return column.cast(pa.string()).fill_null("")


def _checked(path: Path, table: pa.Table, *, what: str, first: int) -> Iterator[Record]:
    """Give the rows of a block whose first row is the `first` line or row of the file."""
    names = table["id"].to_pylist() if "id" in table.column_names else ["."] * len(table)
    fields = zip(*(table[key].to_pylist() for key in ("chrom", "pos", "ref", "alt")), names, strict=True)
    for number, (contig, pos, ref, alt, name) in enumerate(fields, start=first):
        if not (pos.isascii() and pos.isdigit() and len(pos) <= 18):
            raise InputError(
                f"{path}: {what} {number} has the position {pos!r}; wanted a number from 1, mend the {what}"
            )
        alts, name = alt.split(","), name or "."
        if (fault := record_fault(contig, name, ref, alts)) is not None:
            raise InputError(f"{path}: {what} {number} {fault}; mend the {what}")
        yield Record(contig, int(pos), name, ref, alts)
