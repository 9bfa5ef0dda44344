"""Read variants, every record as the file has it, one row per alternate allele.

Text is read here and not by pysam, which cannot read gzip that is not bgzip, writes "." for an empty
allele, calls every bad line a truncated file, and parses INFO and samples that nobody asked for. BCF is
read by pysam.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pysam

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, lacks_bgzip_end, open_unpacked

_COLUMNS = [b"#CHROM", b"POS", b"ID", b"REF", b"ALT"]
_CONTIG_LINE = re.compile(r"##contig=<(.*)>\s*")
# a quoted value may hold commas and equal signs
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,]*)')
_TAB = b"\t"
_Row = tuple[str, int, str, str, list[str]]  # contig, pos, id, ref, alternate alleles
_BCF_ROWS = 1024  # read between two calls to pysam's global verbosity


class Variant(NamedTuple):
    """One alternate allele of one record, verbatim."""

    record_index: int
    """Number of the record in the file, from 0."""
    allele_index: int
    """Number of the allele in the record's ALT column, from 0."""
    contig: str
    """As the file names it; not always one that its header names."""
    pos: int
    """1-based, as in the file."""
    id: str
    ref: str
    alt: str
    """One allele of the ALT column; "." where the record has none."""


def read_variants(path: Path | str) -> Iterator[Variant]:
    """Give every allele of every record of a VCF, VCF.gz (gzip or bgzip) or BCF file, in the file's order.

    Records are neither sorted, merged, trimmed nor left out, and their alleles need not be bases.
    Raises InputError, after the last good record, for a truncated file and for a line that is no record.
    """
    path = _existing(path)
    rows = _bcf_rows(path) if _is_bcf(path) else _text_rows(path)
    for record_index, (contig, pos, name, ref, alts) in enumerate(rows):
        for allele_index, alt in enumerate(alts):
            yield Variant(record_index, allele_index, contig, pos, name, ref, alt)


def variant_contigs(path: Path | str) -> dict[str, int | None]:
    """Return the contigs of a file's header and their lengths, None where the header tells none.

    Records may lie on contigs that the header does not name.
    """
    path = _existing(path)
    if _is_bcf(path):
        with _opened_bcf(path) as file:
            lines = str(file.header).splitlines()
    else:
        with open_unpacked(path) as handle:
            lines = [line.decode("utf-8", "replace") for line in _header(path, handle)]
    contigs: dict[str, int | None] = {}
    for line in lines:
        if (found := _CONTIG_LINE.fullmatch(line)) is None:
            continue
        fields = {key: value.strip('"') for key, value in _FIELD.findall(found[1])}
        name, length = fields.get("ID"), fields.get("length")
        if not name or not (length is None or length.isdecimal()):
            raise InputError(f"{path}: header line {line.strip()!r} does not name a contig and its length; mend it")
        if contigs.get(name) is not None and length is not None and contigs[name] != int(length):
            raise InputError(f"{path}: the header has contig {name!r} with {contigs[name]} and {length} bases; mend it")
        contigs[name] = contigs.get(name) if length is None else int(length)
    return contigs


def _existing(path: Path | str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, but a VCF or BCF file was expected here")
    return Path(path)


def _is_bcf(path: Path) -> bool:
    try:
        with open_unpacked(path) as handle:
            return handle.read(3) == b"BCF"
    except GZIP_ERRORS:
        return False  # the reader of text tells what is wrong with it


def _text_rows(path: Path) -> Iterator[_Row]:
    row = None
    with open_unpacked(path) as handle:
        header = _header(path, handle)
        number, tabs = len(header), header[-1].count(b"\t")
        try:
            for line in handle:
                number += 1
                if line.count(_TAB) != tabs or not line.endswith(b"\n"):
                    raise _broken(path, _line_fault(line, number, tabs), row)
                contig, pos, name, ref, alts = line.rstrip(b"\r\n").split(b"\t", 5)[:5]
                if not pos.isdigit():
                    raise _broken(path, f"line {number} has the position {pos.decode('utf-8', 'replace')!r}", row)
                row = (contig.decode(), int(pos), name.decode(), ref.decode(), alts.decode().split(","))
                yield row
        except GZIP_ERRORS as error:
            raise _broken(path, f"truncated or damaged after line {number} ({error})", row) from error
        except UnicodeDecodeError as error:
            raise _broken(path, f"line {number} is not UTF-8 text ({error})", row) from error
    if lacks_bgzip_end(path):
        raise _broken(path, "truncated, the end block of a bgzip file is missing", row)


def _line_fault(line: bytes, number: int, tabs: int) -> str:
    if line.count(_TAB) != tabs:
        return f"line {number} has {line.count(_TAB) + 1} columns where the line of #CHROM has {tabs + 1}"
    return f"line {number}, the last one, does not end in a newline; if it is whole, add one"


def _header(path: Path, handle: BinaryIO) -> list[bytes]:
    """Return the lines to #CHROM, which is the last; raises InputError where there is none."""
    lines: list[bytes] = []
    try:
        for line in handle:
            lines.append(line)
            if not line.startswith(b"##"):
                break
    except GZIP_ERRORS as error:
        raise _broken(path, f"truncated or damaged gzip data in the header ({error})", None) from error
    if not lines or not lines[0].startswith(b"#"):
        found = repr(lines[0][:40].decode("utf-8", "replace")) if lines else "nothing"
        raise InputError(f"{path}: not a VCF file (its first line is {found}); a header was expected there")
    columns = lines[-1].rstrip(b"\r\n").split(b"\t")
    if columns[:5] != _COLUMNS or not lines[-1].endswith(b"\n"):
        raise InputError(
            f"{path}: line {len(lines)} is not the line #CHROM, POS, ID, REF, ALT (with tabs) that ends a "
            "VCF header; add it, or copy the file again if it was cut there"
        )
    return lines


def _broken(path: Path, what: str, last: _Row | None) -> InputError:
    good = f"the last good record is {last[0]}:{last[1]} {last[3]}" if last else "there is no good record before it"
    return InputError(f"{path}: {what}; {good}; mend, copy or make the file again")


def _bcf_rows(path: Path) -> Iterator[_Row]:
    row = None
    with _opened_bcf(path) as file:
        while True:
            rows, error = _next_bcf_rows(file)
            yield from rows
            row = rows[-1] if rows else row
            if error is not None:
                raise _broken(path, f"truncated or damaged BCF data ({error})", row) from error
            if len(rows) < _BCF_ROWS:
                break
    if lacks_bgzip_end(path):
        raise _broken(path, "truncated, the end block of a bgzip file is missing", row)


def _next_bcf_rows(file: pysam.VariantFile) -> tuple[list[_Row], Exception | None]:
    """Read some more records, and what went wrong after them."""
    rows: list[_Row] = []
    try:
        with _silent_pysam():
            for record in islice(file, _BCF_ROWS):
                alts = list(record.alts or ["."])
                rows.append((record.chrom, record.pos, record.id or ".", record.ref, alts))
    except (OSError, ValueError) as error:
        return rows, error
    return rows, None


@contextmanager
def _opened_bcf(path: Path) -> Iterator[pysam.VariantFile]:
    try:
        with _silent_pysam(), warnings.catch_warnings():
            # the warning is about the missing end block, which is found after the last record
            warnings.simplefilter("ignore")
            file = pysam.VariantFile(str(path), ignore_truncation=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable BCF file ({error}); copy or make it again") from error
    try:
        yield file
    finally:
        with suppress(OSError):  # a damaged file fails once more when it is closed
            file.close()


@contextmanager
def _silent_pysam() -> Iterator[None]:
    """Keep the C library from writing to the terminal; its verbosity is one for the whole process."""
    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)
