"""Write a score table as a VCF that `bcftools +split-vep` and readers of VEP's annotations take apart."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pysam
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.scoring.effects import is_place
from cisray.scoring.exports.escapes import percent_encoded
from cisray.scoring.exports.vcf_lines import SortWatch, drop_indexes, to_bytes, vcf_lines, write_index
from cisray.scoring.manifest import Manifest, read_manifest
from cisray.scoring.rows import score_values, top_columns, track_names
from cisray.scoring.schema import iter_blocks, iter_genes, iter_slices

INFO_COLUMN = 7
# Numbers have four significant digits, but whole ones up to what float32 holds exactly.
SIGNIFICANT, EXACT = 1e4, 2.0**24
_NOT_IN_VCF = re.compile(r"[\s,]")
SCORES_KEY, GENES_KEY, STATUS_KEY = "CISRAY", "CISRAY_GENE", "CISRAY_STATUS"
_ROW_COLUMNS = ["record_index", "allele_index", "chrom", "pos", "id", "ref", "alt", "status"]
# bcftools +split-vep reads no field without one of this name; it is empty, as scores name no consequence
_CONSEQUENCE = "Consequence"
_GENE_TEXTS = ["gene_id", "gene_name", "gene_strand", "tss_distance"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VcfSpec:
    """What of a score table goes into the VCF."""

    tracks: tuple[str, ...] = ()
    """Tracks that are written; empty for all that have values."""
    per_score: bool = False
    """Write one more key per score, with a number per ALT: the value of the track that it moves most."""


class VcfExport(NamedTuple):
    """What was written."""

    path: Path
    index_path: Path | None
    """None where the records are not sorted by contig and position: sort the file, then index it."""
    num_records: int
    why_no_index: str | None
    """The first two records that are not in order, in words; None where all are."""


class _Allele(NamedTuple):
    """One row of a score table as text."""

    record_index: int
    allele_index: int
    contig: str
    pos: int
    id: str
    ref: str
    alt: str
    status: str
    entries: list[str]
    """Of the key of all scores: one per track."""
    numbers: tuple[str, ...]
    """Per score, the value of the track that is moved most."""
    of_genes: list[str]
    """Of the key of genes: one per gene and track."""


_Line = tuple[str, Sequence[_Allele | None]]
"""A record's line and its rows, one per ALT; None for one that the run's selection left out."""


def export_vcf(
    scores_dir: Path, out_path: Path, *, source_vcf_path: Path | None = None, spec: VcfSpec | None = None
) -> VcfExport:
    """Write a VCF with the scores in INFO, bgzipped, and indexed where it is sorted.

    Of the VCF that was scored every record stands as it was, in the same order, but for those that the run's
    selection left out; without one, of a table of variants, a VCF is made of the rows. Added are CISRAY_STATUS, one
    per ALT ("." for one left out); CISRAY with `ALLELE||TRACK|...`, an entry per track and ALT that has scores, in 4
    significant digits; CISRAY_GENE likewise per gene. What VCF reserves is percent-encoded in names and alleles.

    Raises:
        InputError: the VCF is not the one that was scored or has such keys already; a track is not in the table; a
            row cannot stand in a VCF; or `out_path` does not end with .vcf.gz.
    """
    if not out_path.name.endswith(".vcf.gz"):
        raise InputError(f"{out_path}: the VCF is written bgzipped; give a name that ends with .vcf.gz")
    manifest, spec = read_manifest(scores_dir), spec or VcfSpec()
    for track in spec.tracks:
        if track not in manifest.listed_tracks:
            raise InputError(f"{scores_dir}: no values of the track {track!r} in it; name tracks that were stored")
    records = _records(scores_dir, manifest, spec)
    if source_vcf_path is None:
        lines: Iterator[str] = _made_header(scores_dir, manifest, spec)
        body: Iterator[_Line] = ((_made_line(alleles), alleles) for alleles in records)
    else:
        source = vcf_lines(source_vcf_path)
        lines = _scored_header(source, _own_header(manifest, spec), source_vcf_path)
        body = _joined(source, records, source=source_vcf_path, selected=manifest.selection is not None)
    watch, num_records = SortWatch(), 0
    keys = list(map(score_key, _numbered(manifest))) if spec.per_score else []
    with written_whole(out_path) as aside:
        with pysam.BGZFile(str(aside), "w") as out:
            for line in lines:
                out.write(to_bytes(line))
            for line, alleles in body:
                out.write(to_bytes(_annotated(line, alleles, keys)))
                contig, pos, _ = line.split("\t", 2)
                watch.see(contig, int(pos))
                num_records += 1
        drop_indexes(out_path)
    return VcfExport(out_path, write_index(out_path, watch), num_records, watch.disorder)


def _numbered(manifest: Manifest) -> list[str]:
    """Name the scores that have a track which is moved most: places are farther, not larger."""
    return [name for name in manifest.scores if not is_place(name)]


def score_key(score: str) -> str:
    """Name the INFO key that holds one number per ALT for a score."""
    return f"{SCORES_KEY}_{score.upper()}"


def _fields(manifest: Manifest) -> list[str]:
    """Name what stands between the bars of an entry of CISRAY."""
    if manifest.listed_tracks:
        return ["ALLELE", _CONSEQUENCE, "TRACK", *(name.upper() for name in manifest.scores)]
    return ["ALLELE", _CONSEQUENCE, *(f"{name.upper()}{part}" for name in manifest.scores for part in ("_TRACK", ""))]


def _gene_fields(manifest: Manifest) -> list[str]:
    """Name what stands between the bars of an entry of CISRAY_GENE."""
    first = ["ALLELE", _CONSEQUENCE, "GENE", "GENE_NAME", "GENE_STRAND", "TSS_DISTANCE"]
    if manifest.listed_tracks:
        return [*first, "TRACK", *(name.upper() for name in manifest.gene_scores)]
    return [*first, *(f"{name.upper()}{part}" for name in manifest.gene_scores for part in ("_TRACK", ""))]


def _own_header(manifest: Manifest, spec: VcfSpec) -> Iterator[str]:
    """Yield the lines that tell what the keys mean."""
    yield f"##cisray_version={manifest.cisray_version}\n"
    for model in manifest.models:
        yield f"##cisray_model={percent_encoded(' '.join(filter(None, [model.uri, model.version])))}\n"
        yield f"##cisray_model_digest={model.digest}\n"
    yield _info_line(STATUS_KEY, "A", "String", "Whether cisray scored the ALT, or why not")
    every = "r reference, a alternate"
    if manifest.scores:
        told = "; ".join(f"{name.upper()} is {formula}" for name, formula in manifest.scores.items())
        yield _info_line(SCORES_KEY, ".", "String", f"{told}; {every}. Format: {'|'.join(_fields(manifest))}")
    if manifest.gene_scores:
        told = "; ".join(f"{name.upper()} is {formula}" for name, formula in manifest.gene_scores.items())
        yield _info_line(GENES_KEY, ".", "String", f"{told}; {every}. Format: {'|'.join(_gene_fields(manifest))}")
    if spec.per_score:
        for name in _numbered(manifest):
            formula = manifest.scores[name]
            yield _info_line(score_key(name), "A", "Float", f"{formula}, {every}; of the track moved most")


def _info_line(key: str, number: str, kind: str, description: str) -> str:
    quoted = description.replace("\\", "\\\\").replace('"', '\\"')
    return f'##INFO=<ID={key},Number={number},Type={kind},Description="{quoted}">\n'


def _scored_header(lines: Iterator[str], own: Iterator[str], source: Path) -> Iterator[str]:
    """Yield the header's lines, and ours before its last; reads no further than the header."""
    added = list(own)
    starts = [line.split(",")[0] + "," for line in added if line.startswith("##INFO")]
    for line in lines:
        taken = [start for start in starts if line.startswith(start)]
        if taken:
            key = taken[0].removeprefix("##INFO=<ID=").rstrip(",")
            raise InputError(f"{source}: has {key} already; remove it first: bcftools annotate -x INFO/{key}")
        if line.startswith("##"):
            yield line
        elif line.startswith("#CHROM\t"):
            yield from added
            yield line
            return
        else:
            break
    raise InputError(f"{source}: no line that starts with #CHROM ends its header; give the VCF that was scored")


def _made_header(scores_dir: Path, manifest: Manifest, spec: VcfSpec) -> Iterator[str]:
    """Yield the header of a VCF that is made of the rows; their contigs are read first."""
    contigs: dict[str, None] = {}
    for block in iter_blocks(scores_dir, ["chrom"]):
        contigs |= dict.fromkeys(block["chrom"].unique().to_pylist())
    yield "##fileformat=VCFv4.3\n"
    for contig in contigs:
        yield f"##contig=<ID={contig}>\n"
    yield from _own_header(manifest, spec)
    yield "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def _made_line(alleles: Sequence[_Allele]) -> str:
    """Return the line of a record, without INFO; raise InputError for text that would break it."""
    first = alleles[0]
    texts = [first.contig, first.id, first.ref, *(allele.alt for allele in alleles)]
    if not all(texts) or any(map(_NOT_IN_VCF.search, texts)):
        raise InputError(
            f"record {first.record_index + 1}, {first.contig}:{first.pos} {first.ref!r} {first.alt!r}: empty text, "
            "spaces and commas cannot stand in a VCF; mend the variants file, or write a TSV"
        )
    alts = ",".join(allele.alt for allele in alleles)
    return "\t".join([first.contig, str(first.pos), first.id, first.ref, alts, ".", ".", "."]) + "\n"


def _records(scores_dir: Path, manifest: Manifest, spec: VcfSpec) -> Iterator[list[_Allele]]:
    """Yield the rows of one record after the other, as text."""
    of_genes = _gene_entries(scores_dir, manifest, spec)
    waiting = next(of_genes, None)
    for _, alleles in groupby(_alleles(scores_dir, manifest, spec), key=attrgetter("record_index")):
        record = list(alleles)
        if waiting is not None and waiting[0] == record[0].record_index:
            for allele in record:
                found = waiting[1].get(allele.allele_index, [])
                allele.of_genes.extend(f"{percent_encoded(allele.alt)}||{entry}" for entry in found)
            waiting = next(of_genes, None)
        yield record


def _alleles(scores_dir: Path, manifest: Manifest, spec: VcfSpec) -> Iterator[_Allele]:
    scores = list(manifest.scores)
    tops = [column for score in scores for column in top_columns(score)] if manifest.storage.values == "summary" else []
    lists = scores if manifest.listed_tracks else []
    for table in iter_slices(iter_blocks(scores_dir, [*_ROW_COLUMNS, *lists, *tops])):
        entries = _entries(table, scores, manifest, spec)
        numbered = _numbered(manifest)
        numbers = zip(*(_largest(table, score, manifest) for score in numbered), strict=True)
        columns = [table[name].to_pylist() for name in _ROW_COLUMNS]
        none = [()] * len(table)  # of a table of genes' scores or of places only
        for *row, found, largest in zip(*columns, entries, numbers if numbered else none, strict=True):
            encoded = percent_encoded(row[6])
            yield _Allele._make([*row, [f"{encoded}||{entry}" for entry in found], largest, []])


def _entries(table: pa.Table, scores: Sequence[str], manifest: Manifest, spec: VcfSpec) -> Iterator[list[str]]:
    """Yield for each row what stands behind the allele, one text per track; none for a row without scores."""
    if not scores:
        yield from ([] for _ in range(table.num_rows))
    elif manifest.listed_tracks:
        yield from _entries_per_track(table, scores, spec)
    else:
        yield from _entries_of_top(table, scores, manifest.tracks)


def _entries_per_track(table: pa.Table, scores: Sequence[str], spec: VcfSpec) -> Iterator[list[str]]:
    names = track_names(table.schema.field(scores[0]))
    wanted = [index for index, name in enumerate(names) if not spec.tracks or name in spec.tracks]
    encoded = [percent_encoded(names[index]) for index in wanted]
    matrices = [score_values(table, score) for score in scores]
    scored = matrices[0][1]
    rows = iter(np.stack([values[:, wanted] for values, _ in matrices], axis=2).tolist())  # [S, T, scores]
    for has_scores in scored.tolist():
        if not has_scores:
            yield []
        else:
            yield [f"{name}|{'|'.join(map(_number, values))}" for name, values in zip(encoded, next(rows), strict=True)]


def _entries_of_top(table: pa.Table, scores: Sequence[str], tracks: Sequence[str]) -> Iterator[list[str]]:
    encoded = [percent_encoded(track) for track in tracks]
    columns = [table[column].to_pylist() for score in scores for column in top_columns(score)]
    for row in zip(*columns, strict=True):
        if row[0] is None:
            yield []
        else:
            pairs = zip(row[::2], row[1::2], strict=True)
            yield ["|".join(f"{encoded[track]}|{_number(value)}" for track, value in pairs)]


def _largest(table: pa.Table, score: str, manifest: Manifest) -> Iterator[str]:
    """Yield each row's value of the track that it moves most, "." for a row without one."""
    if manifest.storage.values == "summary":
        values = table[top_columns(score)[1]].to_pylist()
        yield from ("." if value is None else _number(value) for value in values)
        return
    matrix, scored = score_values(table, score)
    top = np.abs(matrix).argmax(axis=1) if len(matrix) else np.zeros(0, np.int64)
    found = iter(matrix[np.arange(len(matrix)), top].tolist())
    yield from (_number(next(found)) if has_scores else "." for has_scores in scored.tolist())


def _gene_entries(scores_dir: Path, manifest: Manifest, spec: VcfSpec) -> Iterator[tuple[int, dict[int, list[str]]]]:
    """Yield for each record with genes its number, and per allele_index what stands behind the allele."""

    def rows() -> Iterator[tuple[int, int, str, list[str]]]:
        scores = list(manifest.gene_scores)
        for table in iter_slices(iter_genes(scores_dir)):
            texts = zip(*(table[name].to_pylist() for name in _GENE_TEXTS), strict=True)
            entries = _entries(table, scores, manifest, spec)
            keys = (table[name].to_pylist() for name in ("record_index", "allele_index"))
            for record, allele, row, found in zip(*keys, texts, entries, strict=True):
                gene = "|".join("" if value is None else percent_encoded(str(value)) for value in row)
                yield record, allele, gene, found

    for record, group in groupby(rows(), key=lambda row: row[0]):
        by_allele: dict[int, list[str]] = {}
        for _, allele, gene, found in group:
            by_allele.setdefault(allele, []).extend(f"{gene}|{entry}" for entry in found)
        yield record, by_allele


def _number(value: float) -> str:
    if SIGNIFICANT <= abs(value) < EXACT:  # bases to a place, which rounding would move
        return f"{value:.0f}"
    return f"{value + 0.0:.4g}"  # adding zero turns -0.0 into 0.0


def _joined(lines: Iterator[str], records: Iterator[list[_Allele]], *, source: Path, selected: bool) -> Iterator[_Line]:
    """Pair each record of the VCF with its rows; one without rows is left out where the run `selected` some.

    Raises InputError where rows and records are not of one another.
    """
    alleles = next(records, None)
    number = 0
    for number, line in enumerate(lines, start=1):
        if line.count("\t") < INFO_COLUMN:
            raise InputError(f"{source}: record {number} has fewer than 8 columns; give the VCF that was scored")
        if alleles is not None and alleles[0].record_index == number - 1:
            yield line, _slots(line, alleles, selected=selected, where=f"{source}: record {number}")
            alleles = next(records, None)
        elif not selected:
            raise InputError(f"{source}: record {number} is in the VCF only; give the VCF that was scored")
    if alleles is not None:
        raise InputError(
            f"{source}: record {alleles[0].record_index + 1} is in the score table only, the VCF has {number}; "
            "give the VCF that was scored"
        )


def _slots(line: str, alleles: Sequence[_Allele], *, selected: bool, where: str) -> list[_Allele | None]:
    """Return a record's rows, one per ALT of its line; raise InputError where they are of another record."""
    contig, pos, _, ref, alt = line.split("\t", 5)[:5]
    alts = alt.split(",")
    slots: list[_Allele | None] = [None] * len(alts)
    fits = len(alleles) == len(alts) or (selected and len(alleles) < len(alts))
    for row in alleles:
        fits = fits and row.allele_index < len(alts) and alts[row.allele_index] == row.alt
        if fits:
            slots[row.allele_index] = row
    first = alleles[0]
    if not fits or (contig, pos, ref) != (first.contig, str(first.pos), first.ref):
        raise InputError(
            f"{where} is {contig}:{pos} {ref} {alt}, but {first.contig}:{first.pos} {first.ref} "
            f"{','.join(row.alt for row in alleles)} was scored; give the VCF that was scored"
        )
    return slots


def _annotated(line: str, alleles: Sequence[_Allele | None], keys: Sequence[str]) -> str:
    """Add our INFO to a record's line; `keys` are those that hold one number per ALT."""
    fields = line.rstrip("\r\n").split("\t")
    there = [allele for allele in alleles if allele is not None]
    added = [f"{STATUS_KEY}={','.join('.' if allele is None else allele.status for allele in alleles)}"]
    for key, entries in (
        (SCORES_KEY, [entry for allele in there for entry in allele.entries]),
        (GENES_KEY, [entry for allele in there for entry in allele.of_genes]),
    ):
        if entries:
            added.append(f"{key}={','.join(entries)}")
    for place, key in enumerate(keys):
        added.append(f"{key}={','.join('.' if allele is None else allele.numbers[place] for allele in alleles)}")
    fields[INFO_COLUMN] = ";".join([*([] if fields[INFO_COLUMN] == "." else [fields[INFO_COLUMN]]), *added])
    return "\t".join(fields) + "\n"
