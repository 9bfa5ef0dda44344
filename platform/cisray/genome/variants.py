"""Read variants of VCF and BCF files, every record as the file has it, one row per alternate allele.

Text is read here and not by pysam, which cannot read gzip that is not bgzip, writes "." for an empty
allele, calls every bad line a truncated file, and parses INFO and samples that nobody asked for. BCF is
read by pysam. Of a line its first five columns are read and judged, and a sample's genotype where it is asked for.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pysam

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, lacks_bgzip_end, open_unpacked
from cisray.genome.intervals import suggest_names
from cisray.genome.variant_grammar import genotype_fault, record_fault

_COLUMNS = [b"#CHROM", b"POS", b"ID", b"REF", b"ALT"]
_POSITION = re.compile(r"[0-9]{1,18}")  # fits into 64 bits
_CONTIG_LINE = re.compile(r"##contig=<(.*)>\s*")
# a quoted value may hold commas and equal signs
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,]*)')
_TAB = b"\t"
_FORMAT = 8  # the column before the samples'
# a line whose columns need no second look; all others are judged by `record_fault`
_PLAIN = re.compile(
    rb"([^\x00-\x20<>\x7f]+)\t([0-9]{1,18})\t([^\x00-\x20;\x7f]+)\t"
    rb"([ACGTNacgtn]+)\t([ACGTNacgtn]+(?:,[ACGTNacgtn]+)*)[\t\r\n]"
)
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


class Record(NamedTuple):
    """One record of a file, verbatim."""

    contig: str
    pos: int
    """1-based, as in the file."""
    id: str
    ref: str
    alts: list[str]
    """["."] where the record has none."""
    genotype: str | None = None
    """The sample's, as in the file; "." without GT, None where no sample was asked for."""


def read_variants(path: Path | str) -> Iterator[Variant]:
    """Give every allele of every record of a VCF, VCF.gz (gzip or bgzip) or BCF file, in the file's order.

    Records are neither sorted, merged, trimmed nor left out, and their alleles need not be bases.
    Raises InputError, after the last good record, for a truncated file and for a line that is no record.
    """
    for record_index, (contig, pos, name, ref, alts, _) in enumerate(read_records(path)):
        for allele_index, alt in enumerate(alts):
            yield Variant(record_index, allele_index, contig, pos, name, ref, alt)


def read_records(path: Path | str, sample: str | None = None) -> Iterator[Record]:
    """Give every record of a file that `read_variants` reads, with the genotype of a sample if one is named.

    Raises InputError as `read_variants` does, for a sample that the file lacks, and in text for a genotype that cannot
    be read or names an allele that its record lacks.
    """
    path = _existing(path)
    return _bcf_records(path, sample) if _is_bcf(path) else _text_records(path, sample)


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


def _text_records(path: Path, sample: str | None) -> Iterator[Record]:
    record = None
    with open_unpacked(path) as handle:
        header = _header(path, handle)
        number, tabs = len(header), header[-1].count(_TAB)
        column = None if sample is None else _sample_column(path, header[-1].decode("utf-8", "replace"), sample)
        try:
            for line in handle:
                number += 1
                if line.count(_TAB) != tabs or not line.endswith(b"\n"):
                    raise _broken(path, _line_fault(line, number, tabs), record)
                if column is None and (plain := _PLAIN.match(line)) is not None:
                    contig, pos, name, ref, alts = plain.groups()
                    found = Record(contig.decode(), int(pos), name.decode(), ref.decode(), alts.decode().split(","))
                else:
                    found = _judged(path, line, number, record, column=column)
                record = found
                yield record
        except GZIP_ERRORS as error:
            raise _broken(path, f"truncated or damaged after line {number} ({error})", record) from error
        except UnicodeDecodeError as error:
            raise _broken(path, f"line {number} is not UTF-8 text ({error})", record) from error
    if lacks_bgzip_end(path):
        raise _broken(path, "truncated, the end block of a bgzip file is missing", record)


def _judged(path: Path, line: bytes, number: int, last: Record | None, *, column: int | None) -> Record:
    """Read a line of the right number of columns, with the genotype of a sample's column if there is one."""
    fields = line.rstrip(b"\r\n").split(_TAB, (len(_COLUMNS) if column is None else column) + 1)
    contig, pos, name, ref, alts = (field.decode() for field in fields[: len(_COLUMNS)])
    if not _POSITION.fullmatch(pos):
        raise _broken(path, f"line {number} has the position {pos!r}", last)
    record = Record(contig, int(pos), name, ref, alts.split(","))
    fault = record_fault(record.contig, record.id, record.ref, record.alts)
    if column is not None and fault is None:
        keys = fields[_FORMAT].decode().split(":")
        genotype = fields[column].decode().partition(":")[0] if keys[0] == "GT" else "."
        record = record._replace(genotype=genotype)
        fault = f"has the FORMAT {':'.join(keys)}, where GT must come first" if "GT" in keys[1:] else None
        fault = fault or genotype_fault(record.genotype, record.alts)
    if fault is not None:
        raise _broken(path, f"line {number} {fault}", last)
    return record


def _sample_column(path: Path, header: str, sample: str) -> int:
    names = header.rstrip("\r\n").split("\t")
    _check_sample(path, sample, names[_FORMAT + 1 :])
    return names.index(sample, _FORMAT + 1)


def _check_sample(path: Path, sample: str, samples: Sequence[str]) -> None:
    if sample not in samples:
        there = suggest_names(sample, samples) if samples else "; the file has no samples"
        raise InputError(f"{path}: no sample {sample!r}{there}")
    if samples.count(sample) > 1:
        raise InputError(f"{path}: has {samples.count(sample)} samples {sample!r}; rename all but one")


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


def _broken(path: Path, what: str, last: Record | None) -> InputError:
    good = (
        f"the last good record is {last.contig}:{last.pos} {last.ref}" if last else "there is no good record before it"
    )
    return InputError(f"{path}: {what}; {good}; mend, copy or make the file again")


def _bcf_records(path: Path, sample: str | None) -> Iterator[Record]:
    record, count = None, 0
    with _opened_bcf(path) as file:
        if sample is not None:
            _check_sample(path, sample, list(file.header.samples))
        file.subset_samples([] if sample is None else [sample])
        while True:
            records, error = _next_bcf_records(file)
            for record in records:
                count += 1
                fault = record_fault(record.contig, record.id, record.ref, record.alts)
                if fault is not None:
                    raise _broken(path, f"record {count} {fault}", None)
                yield record
            if error is not None:
                raise _broken(path, f"truncated or damaged BCF data ({error})", record) from error
            if len(records) < _BCF_ROWS:
                break
    if lacks_bgzip_end(path):
        raise _broken(path, "truncated, the end block of a bgzip file is missing", record)


def _next_bcf_records(file: pysam.VariantFile) -> tuple[list[Record], Exception | None]:
    """Read some more records, and what went wrong after them."""
    records: list[Record] = []
    try:
        with _silent_pysam():
            for each in islice(file, _BCF_ROWS):
                alts = list(each.alts or ["."])
                genotype = next(map(_genotype_of, each.samples.values()), None)
                records.append(Record(each.chrom, each.pos, each.id or ".", each.ref, alts, genotype))
    except (OSError, ValueError) as error:
        return records, error
    return records, None


def _genotype_of(call: pysam.VariantRecordSample) -> str:
    alleles = call.allele_indices or (None,)
    return ("|" if call.phased else "/").join("." if one is None else str(one) for one in alleles)


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
