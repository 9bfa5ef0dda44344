"""Read which allele each record of a VCF or BCF file gives to one haplotype of one sample, as columns.

A genome's worth of records comes through here, so that text is parsed block by block into Arrow columns and no
record is a Python object; only BCF is read record by record, by pysam.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pysam
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, open_unpacked
from cisray.genome.variants import variant_contigs

UnphasedRule = Literal["refuse", "reference", "alternate"]
_BLOCK_BYTES = 1 << 24
_BCF_ROWS = 1 << 16
_COLUMNS = {"contig": 0, "pos": 1, "ref": 3, "alts": 4}  # of a VCF line
_FILTER, _FORMAT = 6, 8
_GENOTYPE = re.compile(r"[|/]?([0-9]{1,9}|\.)([|/]([0-9]{1,9}|\.))*")  # VCF 4.4 may write the first allele's phase too
_IS_DNA = "^[ACGTacgt]+$"
# "*" is a base deleted by another record; a lone breakend has a dot at one end: "G." or ".G" (VCF 4.3, section 5.4)
_IS_SYMBOL = r"^\*$|^[<.]|[>.]$|[\[\]]"


class Fate(IntEnum):
    """What becomes of a record."""

    APPLIED = 0
    APPLIED_WITHOUT_PHASE = 1
    SAME_AS_REFERENCE = 2
    WITHOUT_GENOTYPE = 3
    UNPHASED = 4
    FAILED_FILTER = 5
    SYMBOL_OR_STAR = 6
    OTHER_LETTERS = 7
    CONTIG_NOT_IN_GENOME = 8
    GENOME_UNKNOWN = 9
    INDEL = 10
    OVERLAP = 11

    @property
    def label(self) -> str:
        """What a card calls it."""
        return _LABELS[self]


_LABELS = {
    Fate.APPLIED: "records applied",
    Fate.APPLIED_WITHOUT_PHASE: "records applied that are heterozygous without phase",
    Fate.SAME_AS_REFERENCE: "records with the reference allele",
    Fate.WITHOUT_GENOTYPE: "records without a genotype, left as reference",
    Fate.UNPHASED: "records heterozygous without phase, left as reference",
    Fate.FAILED_FILTER: "records that failed a filter, left as reference",
    Fate.SYMBOL_OR_STAR: "symbolic, breakend and * alleles, left as reference",
    Fate.OTHER_LETTERS: "alleles with letters other than ACGT, left as reference",
    Fate.CONTIG_NOT_IN_GENOME: "records on contigs that the genome lacks",
    Fate.GENOME_UNKNOWN: "records where the genome has other letters than ACGT, left as reference",
    Fate.INDEL: "indels, left as reference",
    Fate.OVERLAP: "records that overlap an earlier one, left as reference",
}
_REFUSED, _MALFORMED = -1, -2  # beside the fates, of genotypes that are an error


class Carried(NamedTuple):
    """What a file gives to the haplotype on one of its contigs."""

    pos: NDArray[np.int64]
    """1-based, of the records that give an allele of bases, in the file's order, [M]."""
    ref: Any
    """Arrow strings [M]."""
    alt: Any
    """Arrow strings [M]."""
    fate: NDArray[np.int8]
    """APPLIED or APPLIED_WITHOUT_PHASE, [M]."""
    others: Counter[Fate]
    """All other records."""
    refusal: str | None
    """What is to be told of the first record that is heterozygous without phase, where that is refused."""


def read_carried(
    path: Path, *, sample: str | None, haplotype: int, unphased: UnphasedRule, with_failed: bool
) -> dict[str, Carried]:
    """Read what each contig's records give to a haplotype (1 or 2) of a sample, by the file's contig names.

    Without a sample, the file must have none, and every record gives its first ALT. A haploid or homozygous
    genotype gives its allele to both haplotypes.

    Raises:
        InputError: the file is missing, damaged, empty, or no VCF or BCF; the sample is not in it; or a genotype
            cannot be read or names an allele that its record lacks.
    """
    variant_contigs(path)  # raises for a file without a header
    number_of: dict[str, int] = {}
    others: Counter[tuple[int, Fate]] = Counter()
    refusals: dict[int, str] = {}
    parts = []
    for block in _text_blocks(path, sample) if _is_text(path) else _bcf_blocks(path, sample):
        allele, fate = _choose_alleles(block, path, haplotype=haplotype, unphased=unphased)
        if not with_failed:
            fate[~pc.is_in(block["filter"], pa.array(["PASS", "."])).to_numpy()] = Fate.FAILED_FILTER
        carried = _take_carried(block, allele, fate, path)
        names = block["contig"].combine_chunks().dictionary_encode()
        numbers = [number_of.setdefault(name, len(number_of)) for name in names.dictionary.to_pylist()]
        number = np.array(numbers, np.int64)[names.indices.to_numpy()]
        pairs, times = np.unique(
            number * len(Fate) + np.where(fate == _REFUSED, Fate.UNPHASED, fate), return_counts=True
        )
        others.update(
            {(pair // len(Fate), Fate(pair % len(Fate))): int(n) for pair, n in zip(pairs, times, strict=True)}
        )
        refused = np.flatnonzero(fate == _REFUSED)
        for one, first in zip(*np.unique(number[refused], return_index=True), strict=True):
            refusals.setdefault(one, _refusal(block, refused[first], path, sample))
        parts.append(carried.append_column("number", pa.array(number[_is_applied(fate)])))
    if not parts:
        raise InputError(f"{path}: holds no record; give a file that has the sample's variants")
    return _by_contig(pa.concat_tables(parts), number_of, others, refusals)


def _by_contig(
    carried: pa.Table, number_of: dict[str, int], others: Counter[tuple[int, Fate]], refusals: dict[int, str]
) -> dict[str, Carried]:
    number = carried["number"].to_numpy()
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(len(number_of) + 1))
    carried = carried.take(pa.array(order)).combine_chunks()
    counts: dict[int, Counter[Fate]] = {one: Counter() for one in number_of.values()}
    for (one, fate), times in others.items():
        if fate > Fate.APPLIED_WITHOUT_PHASE:
            counts[one][fate] += times
    found = {}
    for name, one in number_of.items():
        here = carried.slice(bounds[one], bounds[one + 1] - bounds[one])
        pos, fate = here["pos"].to_numpy(), here["fate"].to_numpy()
        ref, alt = (here[column].combine_chunks() for column in ("ref", "alt"))
        found[name] = Carried(pos, ref, alt, fate, counts[one], refusals.get(one))
    return found


def _choose_alleles(
    block: pa.Table, path: Path, *, haplotype: int, unphased: UnphasedRule
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the number of each record's allele, 0 for the reference, and its fate as far as genotypes tell, [M]."""
    genotypes = block["genotype"].combine_chunks().dictionary_encode()  # few different ones
    index = genotypes.indices.to_numpy()
    chosen = [_choose(each, haplotype=haplotype, unphased=unphased) for each in genotypes.dictionary.to_pylist()]
    allele = np.array([one for one, _ in chosen], np.int64)[index]
    fate = np.array([one for _, one in chosen], np.int8)[index]
    for row in np.flatnonzero(fate == _MALFORMED)[:1]:
        raise InputError(
            f"{path}: {_record(block, row)}: genotype {block['genotype'][row]} is not numbers of alleles parted by "
            "'|' or '/'; mend or drop the record"
        )
    return allele, fate


def _choose(genotype: str, *, haplotype: int, unphased: UnphasedRule) -> tuple[int, int]:
    """Return the allele that a genotype gives to a haplotype, 0 for the reference, and the fate that makes."""
    if not _GENOTYPE.fullmatch(genotype):
        return 0, _MALFORMED
    alleles = [None if one == "." else int(one) for one in re.findall(r"[^|/]+", genotype)]
    fate = Fate.APPLIED
    if len(set(alleles)) == 1:
        chosen = alleles[0]
    elif "/" not in genotype:
        chosen = alleles[haplotype - 1]
    elif None in alleles:
        chosen = None
    elif unphased == "alternate":
        chosen, fate = next(one for one in alleles if one), Fate.APPLIED_WITHOUT_PHASE
    else:
        return 0, _REFUSED if unphased == "refuse" else Fate.UNPHASED
    if chosen is None:
        return 0, Fate.WITHOUT_GENOTYPE
    return chosen, fate if chosen else Fate.SAME_AS_REFERENCE


def _take_carried(block: pa.Table, allele: NDArray[np.int64], fate: NDArray[np.int8], path: Path) -> pa.Table:
    """Return the records that give an allele of bases; `fate` is set for those whose alleles are none."""
    rows = np.flatnonzero(_is_applied(fate))
    alts = pc.split_pattern(block["alts"].combine_chunks().take(pa.array(rows)), ",")
    written = np.diff(alts.offsets.to_numpy())
    for at in np.flatnonzero(allele[rows] > written)[:1]:
        raise InputError(
            f"{path}: {_record(block, rows[at])}: genotype {block['genotype'][rows[at]]} names allele "
            f"{allele[rows[at]]}, but ALT is {block['alts'][rows[at]]}; mend or drop the record"
        )
    alt = alts.values.take(pa.array(alts.offsets.to_numpy()[:-1] + allele[rows] - 1))
    ref = block["ref"].combine_chunks().take(pa.array(rows))
    is_dna = pc.and_(pc.match_substring_regex(ref, _IS_DNA), pc.match_substring_regex(alt, _IS_DNA))
    is_symbol = pc.match_substring_regex(alt, _IS_SYMBOL)
    is_dna, is_symbol = (column.to_numpy(zero_copy_only=False) for column in (is_dna, is_symbol))
    fate[rows[~is_dna]] = Fate.OTHER_LETTERS
    fate[rows[is_symbol]] = Fate.SYMBOL_OR_STAR
    kept = pa.array(is_dna)
    pos = block["pos"].combine_chunks().take(pa.array(rows))
    columns = {"pos": pos.filter(kept), "ref": ref.filter(kept), "alt": alt.filter(kept)}
    return pa.table(columns | {"fate": fate[rows[is_dna]]})


def _is_applied(fate: NDArray[np.int8]) -> NDArray[np.bool_]:
    return (fate == Fate.APPLIED) | (fate == Fate.APPLIED_WITHOUT_PHASE)


def _record(block: pa.Table, row: int) -> str:
    return f"{block['contig'][row]}:{block['pos'][row]}"


def _refusal(block: pa.Table, row: int, path: Path, sample: str | None) -> str:
    return (
        f"{path}: {_record(block, row)}: sample {sample} has the genotype {block['genotype'][row]}, heterozygous "
        'without phase; phase the file, or set unphased to "reference" or "alternate"'
    )


def _is_text(path: Path) -> bool:
    with open_unpacked(path) as handle:
        return handle.read(3) != b"BCF"


def _check_sample(path: Path, sample: str | None, samples: Sequence[str]) -> None:
    more = f" and {len(samples) - 5} more" if len(samples) > 5 else ""
    if sample is None and samples:
        raise InputError(f"{path}: has the samples {', '.join(samples[:5])}{more}; say which one in sample")
    if sample is not None and sample not in samples:
        there = f"; there are {', '.join(samples[:5])}{more}" if samples else "; the file has no samples"
        raise InputError(f"{path}: no sample {sample!r}{there}")


def _text_blocks(path: Path, sample: str | None) -> Iterator[pa.Table]:
    """Give the records of a VCF file as columns contig, pos, ref, alts, filter and genotype, block by block."""
    check_bgzip_end(path)
    with open_unpacked(path) as handle:
        line = 1
        while (header := handle.readline()).startswith(b"##"):
            line += 1
        names = header.decode().rstrip("\r\n").split("\t")
        _check_sample(path, sample, names[_FORMAT + 1 :])
        columns = _COLUMNS | ({"filter": _FILTER} if len(names) > _FILTER else {})
        columns |= {"format": _FORMAT, "sample": names.index(sample, _FORMAT)} if sample is not None else {}
        rest = b""
        try:
            while chunk := handle.read(_BLOCK_BYTES):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    yield _with_genotypes(_parsed(path, whole + newline, columns, len(names), line), path)
                    line += whole.count(b"\n") + 1
        except GZIP_ERRORS as error:
            raise InputError(
                f"{path}: truncated or damaged after line {line} ({error}); copy or make it again"
            ) from error
    if rest:
        raise InputError(f"{path}: line {line + 1}, the last one, does not end in a newline; if it is whole, add one")


def _parsed(path: Path, text: bytes, columns: dict[str, int], width: int, line: int) -> pa.Table:
    """Parse whole lines, the first of which comes after line number `line`, into the named columns."""
    advice = "mend, copy or make the file again"
    numbers = [str(number) for number in range(width)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            # only one thread counts rows, for errors
            pyarrow.csv.ReadOptions(use_threads=False, column_names=numbers, block_size=len(text)),
            pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                include_columns=[str(column) for column in columns.values()],
                column_types={str(each): pa.string() for each in columns.values()} | {str(columns["pos"]): pa.int64()},
            ),
        )
    except pa.ArrowInvalid as error:
        told = re.sub(r"Row #(\d+)", lambda row: f"line {line + int(row[1])}", str(error))
        raise InputError(f"{path}: {told}; {advice}") from error
    table = table.rename_columns(list(columns))
    for row in np.flatnonzero(table["pos"].is_null().to_numpy())[:1]:  # Arrow's answer to empty text
        raise InputError(f"{path}: line {line + 1 + row} has no position; {advice}")
    return table


def _with_genotypes(table: pa.Table, path: Path) -> pa.Table:
    """Replace a sample's column by its genotypes; without one every record is a haploid one of its first ALT."""
    if "filter" not in table.column_names:
        table = table.append_column("filter", pa.repeat(".", len(table)))
    if "sample" not in table.column_names:
        return table.append_column("genotype", pc.if_else(pc.equal(table["alts"], "."), "0", "1"))
    formats = table["format"].combine_chunks().dictionary_encode()
    keys = [each.split(":") for each in formats.dictionary.to_pylist()]
    late = np.array(["GT" in one[1:] for one in keys], bool)[formats.indices.to_numpy()]
    for row in np.flatnonzero(late)[:1]:
        raise InputError(
            f"{path}: {_record(table, row)}: FORMAT is {table['format'][row]}; GT must come first, mend the record"
        )
    has_genotype = np.array([one[0] == "GT" for one in keys], bool)[formats.indices.to_numpy()]
    first = pc.list_element(pc.split_pattern(table["sample"], ":", max_splits=1), 0)
    genotype = pc.if_else(pa.array(has_genotype), first, ".")
    return table.drop_columns(["format", "sample"]).append_column("genotype", genotype)


def _bcf_blocks(path: Path, sample: str | None) -> Iterator[pa.Table]:
    """Give the records of a BCF file as `_text_blocks` gives those of text."""
    before = pysam.set_verbosity(0)  # one for the whole process
    file = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the missing end block, which is told below
            file = pysam.VariantFile(str(path), ignore_truncation=True)
        _check_sample(path, sample, list(file.header.samples))
        if sample is not None:
            file.subset_samples([sample])
        while rows := [_bcf_row(record) for record in islice(file, _BCF_ROWS)]:
            columns = zip(("contig", "pos", "ref", "alts", "filter", "genotype"), zip(*rows, strict=True), strict=True)
            yield pa.table({name: pa.array(values) for name, values in columns})
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged BCF data ({error}); copy or make it again") from error
    finally:
        pysam.set_verbosity(before)
        if file is not None:
            with suppress(OSError):  # a damaged file fails once more when it is closed
                file.close()
    check_bgzip_end(path)


def _bcf_row(record: Any) -> tuple[str, int, str, str, str, str]:
    alts = ",".join(record.alts or ["."])
    genotype = "0" if alts == "." else "1"  # of a file without samples
    for call in record.samples.values():
        alleles = call.allele_indices or (None,)
        genotype = ("|" if call.phased else "/").join("." if one is None else str(one) for one in alleles)
    return record.chrom, record.pos, record.ref, alts, ";".join(record.filter.keys()) or ".", genotype
