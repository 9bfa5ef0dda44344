"""Write a scored VCF with one key per score; `exports` holds the writers that follow it."""

from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pysam

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.scoring.exports.escapes import percent_encoded
from cisray.scoring.exports.tsv import write_tsv
from cisray.scoring.exports.vcf import INFO_COLUMN, STATUS_KEY, VcfExport, score_key
from cisray.scoring.exports.vcf_lines import SortWatch, drop_indexes, to_bytes, vcf_lines, write_index
from cisray.scoring.manifest import Manifest, read_manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import iter_blocks

__all__ = ["SortWatch", "percent_encoded", "write_tsv", "write_vcf"]


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
        lines = vcf_lines(source_vcf_path)
        with pysam.BGZFile(str(aside), "w") as out:
            for line in _scored_header(lines, manifest, source=source_vcf_path):
                out.write(to_bytes(line))
            for line, alleles in _joined(lines, _records(scores_dir, manifest), source=source_vcf_path):
                out.write(to_bytes(_annotated(line, alleles, scores=list(manifest.scores))))
                watch.see(alleles[0].contig, alleles[0].pos)
                num_records += 1
        drop_indexes(out_path)
    return VcfExport(out_path, write_index(out_path, watch), num_records, watch.disorder)


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
