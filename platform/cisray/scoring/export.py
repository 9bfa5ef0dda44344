"""Write a score table in the formats that other programs read: VCF and TSV."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pysam

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.compression import GZIP_ERRORS, open_unpacked
from cisray.scoring.schema import Manifest, iter_blocks, read_manifest, score_values, table_schema

INFO_COLUMN = 7
STATUS_KEY = "CISRAY_STATUS"
RESERVED_IN_INFO = re.compile(r"[%;=,|:\"\\\s\x00-\x1f\x7f]")
RESERVED_IN_TSV = re.compile(r"[\"\t\r\n]")
BCF_MAGIC = b"BCF"
# a .tbi index reaches twice as far, which leaves room for long alleles; a .csi index has no end
LARGEST_TBI_BP = 2**28


class VcfExport(NamedTuple):
    """What was written."""

    path: Path
    index_path: Path | None
    """None where the records are not sorted by contig and position: sort the file, then index it."""
    num_records: int


class Allele(NamedTuple):
    """One row of a score table as text."""

    record_index: int
    contig: str
    pos: int
    ref: str
    alt: str
    status: str
    values: tuple[str, ...]
    """Per score, `ALLELE|track1|track2...`."""


@dataclass
class SortWatch:
    """Whether the records seen so far lie in the order that an index needs."""

    is_sorted: bool = True
    largest_pos: int = 0
    contigs: set[str] = field(default_factory=set)
    last: tuple[str, int] = ("", 0)

    def see(self, contig: str, pos: int) -> None:
        """Take in the next record."""
        if contig == self.last[0]:
            self.is_sorted &= pos >= self.last[1]
        else:
            self.is_sorted &= contig not in self.contigs
            self.contigs.add(contig)
        self.largest_pos = max(self.largest_pos, pos)
        self.last = (contig, pos)


def write_vcf(scores_dir: Path, source_vcf_path: Path, out_path: Path) -> VcfExport:
    """Write the scored VCF again with the scores in INFO, bgzipped, and indexed where it is sorted.

    Every record stands as it was, in the same order. Added are CISRAY_STATUS, one per ALT, and per score a
    key such as CISRAY_LOG2FC with `ALLELE|track1|track2...` per ALT, 4 significant digits, "." for an allele
    without a score. What VCF reserves is percent-encoded in names and alleles.

    Raises InputError where the VCF is not the one that was scored or already has such keys, and where
    `out_path` does not end with .vcf.gz.
    """
    if not out_path.name.endswith(".vcf.gz"):
        raise InputError(f"{out_path}: the VCF is written bgzipped; give a name that ends with .vcf.gz")
    manifest = read_manifest(scores_dir)
    watch, num_records = SortWatch(), 0
    with written_whole(out_path) as aside:
        lines = _vcf_lines(source_vcf_path)
        with pysam.BGZFile(str(aside), "w") as out:
            for line in _scored_header(lines, manifest, source=source_vcf_path):
                out.write(_to_bytes(line))
            for line, alleles in _joined(lines, _records(scores_dir, manifest), source=source_vcf_path):
                out.write(_to_bytes(_annotated(line, alleles, scores=list(manifest.scores))))
                watch.see(alleles[0].contig, alleles[0].pos)
                num_records += 1
        for suffix in (".tbi", ".csi"):  # of an older file of this name
            out_path.with_name(out_path.name + suffix).unlink(missing_ok=True)
    return VcfExport(out_path, _write_index(out_path, watch), num_records)


def write_tsv(scores_dir: Path, out_path: Path) -> None:
    """Write one row per (record, ALT), with one column `score:track` per value; empty where there is none.

    Nothing is quoted: a tab, a line end or a quotation mark in a name is percent-encoded.
    """
    manifest = read_manifest(scores_dir)
    empty = table_schema(list(manifest.scores), manifest.tracks).empty_table()
    options = pyarrow.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    flat = _one_column_per_value(empty, manifest)
    with (
        written_whole(out_path) as aside,
        pyarrow.csv.CSVWriter(str(aside), flat.schema, write_options=options) as writer,
    ):
        for table in iter_blocks(scores_dir):
            writer.write_table(_one_column_per_value(table, manifest))


def score_key(score: str) -> str:
    """Name the INFO key of a score."""
    return f"CISRAY_{score.upper()}"


def percent_encoded(text: str, *, reserved: re.Pattern[str] = RESERVED_IN_INFO) -> str:
    """Write what is reserved as %XX; by default what has a meaning in INFO, and space (VCF 4.3, 1.2)."""
    return reserved.sub(lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), text)


def _vcf_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a VCF as they are, plain or compressed, and those of a BCF as htslib writes them."""
    if not path.exists():
        raise InputError(f"{path}: no such file, but the VCF that was scored was expected here")
    try:
        with open_unpacked(path) as handle:
            is_bcf = handle.read(len(BCF_MAGIC)) == BCF_MAGIC
        if is_bcf:
            with pysam.VariantFile(str(path)) as bcf:
                yield from str(bcf.header).splitlines(keepends=True)
                yield from map(str, bcf)
        else:
            with open_unpacked(path) as handle:
                for line in handle:
                    yield line.decode("utf-8", errors="surrogateescape")  # any bytes pass through
    except (*GZIP_ERRORS, OSError) as error:
        raise InputError(f"{path}: not readable to its end ({error}); copy or make it again") from error


def _to_bytes(line: str) -> bytes:
    return line.encode("utf-8", errors="surrogateescape")


def _scored_header(lines: Iterator[str], manifest: Manifest, *, source: Path) -> Iterator[str]:
    """Yield the header's lines, and ours before its last; reads no further than the header."""
    keys = [STATUS_KEY, *(score_key(score) for score in manifest.scores)]
    for line in lines:
        taken = [key for key in keys if line.startswith(f"##INFO=<ID={key},")]
        if taken:
            raise InputError(f"{source}: has {taken[0]} already; remove it first: bcftools annotate -x INFO/{taken[0]}")
        if line.startswith("##"):
            yield line
        elif line.startswith("#CHROM\t"):
            yield from _own_header(manifest)
            yield line
            return
        else:
            break
    raise InputError(f"{source}: no line that starts with #CHROM ends its header; give the VCF that was scored")


def _own_header(manifest: Manifest) -> Iterator[str]:
    model = " ".join(filter(None, [manifest.model.uri, manifest.model.version]))
    tracks = "|".join(percent_encoded(track) for track in manifest.tracks)
    yield f"##cisray_version={manifest.cisray_version}\n"
    yield f"##cisray_model={percent_encoded(model)}\n"
    yield f"##cisray_model_digest={manifest.model.digest}\n"
    described = "Whether cisray scored the ALT, or why not"
    yield f'##INFO=<ID={STATUS_KEY},Number=A,Type=String,Description="{described}">\n'
    for score, formula in manifest.scores.items():
        yield (
            f"##INFO=<ID={score_key(score)},Number=.,Type=String,"
            f'Description="{formula}, r reference, a alternate. Format: ALLELE|{tracks}">\n'
        )


def _records(scores_dir: Path, manifest: Manifest) -> Iterator[list[Allele]]:
    """Yield the rows of one record after the other, as text."""
    for table in iter_blocks(scores_dir):
        for _, alleles in groupby(_alleles(table, list(manifest.scores)), key=lambda allele: allele.record_index):
            yield list(alleles)


def _alleles(table: pa.Table, scores: Sequence[str]) -> Iterator[Allele]:
    fixed = ["record_index", "chrom", "pos", "ref", "alt", "status"]
    texts = [_value_texts(table, score) for score in scores]
    columns = [table[name].to_pylist() for name in fixed]
    for *row, values in zip(*columns, zip(*texts, strict=True), strict=True):
        yield Allele._make([*row, values])


def _value_texts(table: pa.Table, score: str) -> Iterator[str]:
    """Yield `value|value...` of one score for each row."""
    matrix, scored = score_values(table, score)
    unscored_text = "|".join(["."] * matrix.shape[1])
    rows = iter(matrix.tolist())
    for is_scored in scored.tolist():
        # adding zero turns -0.0 into 0.0
        yield "|".join(f"{value + 0.0:.4g}" for value in next(rows)) if is_scored else unscored_text


def _joined(
    lines: Iterator[str], records: Iterator[list[Allele]], *, source: Path
) -> Iterator[tuple[str, list[Allele]]]:
    """Pair each record of the VCF with its rows; raise InputError where they are not of one another."""
    for index, (line, alleles) in enumerate(zip_longest(lines, records)):
        if line is None or alleles is None:
            raise InputError(
                f"{source}: record {index + 1} is in the {'score table' if line is None else 'VCF'} only; "
                "give the VCF that was scored"
            )
        if line.count("\t") < INFO_COLUMN:
            raise InputError(f"{source}: record {index + 1} has fewer than 8 columns; give the VCF that was scored")
        contig, pos, _, ref, alt = line.split("\t", 5)[:5]
        scored = (
            alleles[0].contig,
            str(alleles[0].pos),
            alleles[0].ref,
            ",".join(row.alt for row in alleles),
        )
        if (contig, pos, ref, alt) != scored or alleles[0].record_index != index:
            raise InputError(
                f"{source}: record {index + 1} is {contig}:{pos} {ref} {alt}, but {':'.join(scored[:2])} "
                f"{' '.join(scored[2:])} was scored; give the VCF that was scored"
            )
        yield line, alleles


def _annotated(line: str, alleles: list[Allele], *, scores: Sequence[str]) -> str:
    """Add our INFO to a record's line."""
    fields = line.rstrip("\r\n").split("\t")
    names = [percent_encoded(allele.alt) for allele in alleles]
    added = [f"{STATUS_KEY}={','.join(allele.status for allele in alleles)}"]
    for column, score in enumerate(scores):
        values = [f"{name}|{allele.values[column]}" for name, allele in zip(names, alleles, strict=True)]
        added.append(f"{score_key(score)}={','.join(values)}")
    fields[INFO_COLUMN] = ";".join([*([] if fields[INFO_COLUMN] == "." else [fields[INFO_COLUMN]]), *added])
    return "\t".join(fields) + "\n"


def _write_index(path: Path, watch: SortWatch) -> Path | None:
    """Index a bgzipped VCF if its records are sorted."""
    if not watch.is_sorted:
        return None
    needs_csi = watch.largest_pos >= LARGEST_TBI_BP
    index_path = path.with_name(path.name + (".csi" if needs_csi else ".tbi"))
    with written_whole(index_path) as aside:
        pysam.tabix_index(str(path), preset="vcf", force=True, csi=needs_csi, index=str(aside))
    return index_path


def _one_column_per_value(table: pa.Table, manifest: Manifest) -> pa.Table:
    """Spread each score's lists over columns named `score:track`."""
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    flat = table.drop_columns(lists)
    for name in ("chrom", "id", "ref", "alt"):
        texts = [percent_encoded(text, reserved=RESERVED_IN_TSV) for text in table[name].to_pylist()]
        flat = flat.set_column(flat.column_names.index(name), name, pa.array(texts, pa.string()))
    for score in lists:
        matrix, scored = score_values(table, score)
        for track, values in zip(manifest.tracks, matrix.T, strict=True):
            column = np.zeros(table.num_rows, np.float32)  # its own memory each time: Arrow does not copy
            column[scored] = values
            name = percent_encoded(f"{score}:{track}", reserved=RESERVED_IN_TSV)
            flat = flat.append_column(name, pa.array(column, mask=~scored))
    return flat
