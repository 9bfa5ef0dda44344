"""Read the rows of a variants file that are wanted, whatever its format, and count the others."""

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, read_bed
from cisray.genome.compression import check_is_file
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import parse_region
from cisray.genome.variant_grammar import carried_alleles
from cisray.genome.variant_tables import is_table, read_table_records
from cisray.genome.variants import Record, Variant, read_records, variant_contigs

OUTSIDE_REGIONS = "outside the regions"
NOT_IN_SAMPLE = "not in the sample"
_Spans = tuple[list[int], list[int]]  # starts and ends of one contig, merged


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubsetSpec:
    """Which rows of a variants file are wanted; all of them by default."""

    regions: tuple[str, ...] = ()
    """`contig` or `contig:start-end`, in the genome's names, 0-based half-open: chr1:0-1000 is positions 1 to 1000."""
    regions_bed: str | None = None
    """BED below data_dir; a row is wanted if a base of its REF lies in one of its intervals or of `regions`."""
    sample: str | None = None
    """A row is wanted if this sample's genotype names its ALT; VCF and BCF only."""

    def __post_init__(self) -> None:
        if self.sample == "" or self.regions_bed == "":
            raise InputError("sample or regions_bed is empty; give a name, or leave it out")


ALL_ROWS = SubsetSpec()


class SelectedVariants:
    """The wanted rows of a file, in its order; each pass over them reads the file again."""

    def __init__(
        self,
        path: Path,
        subset: SubsetSpec,
        contig_lengths: Mapping[str, int],
        data_dir: str | None = None,
    ) -> None:
        self.path = path
        self._subset = subset
        self._contig_lengths = contig_lengths
        self._file_contigs = contigs_of(path)
        self._spans = _spans_of(subset, contig_lengths, data_dir)
        self._spans_of_contig: dict[str, _Spans | None] = {}
        self.left_out: Counter[str] = Counter()
        """Rows that the last pass has left out so far, by the reason; of two reasons, the regions."""

    def __iter__(self) -> Iterator[Variant]:
        self.left_out = Counter()
        records = read_table_records(self.path) if is_table(self.path) else read_records(self.path, self._subset.sample)
        for record_index, record in enumerate(records):
            if self._spans is not None and not self._is_inside(record):
                self.left_out[OUTSIDE_REGIONS] += len(record.alts)
                continue
            contig, pos, name, ref, alts, genotype = record
            carried = None if genotype is None else carried_alleles(genotype)
            for allele_index, alt in enumerate(alts):
                if carried is None or allele_index + 1 in carried:
                    yield Variant(record_index, allele_index, contig, pos, name, ref, alt)
                else:
                    self.left_out[NOT_IN_SAMPLE] += 1

    def _is_inside(self, record: Record) -> bool:
        spans = self._spans_here(record.contig)
        if spans is None:
            return False
        start, end = spans
        index = bisect.bisect_right(end, record.pos - 1)  # the first that ends behind REF's first base
        return index < len(start) and start[index] < record.pos - 1 + len(record.ref)

    def _spans_here(self, contig: str) -> _Spans | None:
        """Return the wanted stretches of a contig that the file names; None where there are none."""
        assert self._spans is not None
        if contig not in self._spans_of_contig:
            named = {contig: self._file_contigs.get(contig)}
            ours = map_contigs(named, self._contig_lengths, source=str(self.path)).names.get(contig)
            self._spans_of_contig[contig] = None if ours is None else self._spans.get(ours)
        return self._spans_of_contig[contig]


def select_variants(
    path: Path | str,
    subset: SubsetSpec = ALL_ROWS,
    *,
    contig_lengths: Mapping[str, int],
    data_dir: str | None = None,
) -> SelectedVariants:
    """Return the wanted rows of a VCF, BCF, TSV or Parquet file; record_index counts all records of the file.

    The whole file is read, an index of it is not used: it does not tell a record's number.

    Args:
        path: the variants.
        subset: which of them.
        contig_lengths: the genome's contigs, which regions name and the file's contigs are matched with.
        data_dir: what regions_bed lies below.

    Raises:
        InputError: a region is not in the genome, or a sample is asked of a table; later, what the readers raise.
    """
    path = Path(path)
    check_is_file(path, wanted="a VCF, BCF, TSV or Parquet file of variants")
    if subset.sample is not None and is_table(path):
        raise InputError(f"{path}: is a table, which has no samples; leave sample={subset.sample!r} out")
    return SelectedVariants(path, subset, contig_lengths, data_dir)


def contigs_of(path: Path) -> dict[str, int | None]:
    """Return the contigs that a variants file names in its header, with their lengths; a table names none."""
    return {} if is_table(path) else variant_contigs(path)


def _spans_of(subset: SubsetSpec, contig_lengths: Mapping[str, int], data_dir: str | None) -> dict[str, _Spans] | None:
    """Return the wanted stretches of each contig of the genome; None where all is wanted."""
    if not subset.regions and subset.regions_bed is None:
        return None
    pieces: dict[str, list[tuple[int, int]]] = {}
    for text in subset.regions:
        region = parse_region(text, contig_lengths)
        pieces.setdefault(region.contig, []).append((region.start, region.end))
    if subset.regions_bed is not None:
        bed = read_bed(data_path(subset.regions_bed, data_dir))
        names = map_contigs(dict.fromkeys(bed.contigs), contig_lengths, source=str(bed.path)).names
        if not names:
            raise InputError(
                f"{bed.path}: none of its contigs is in the genome ({', '.join(bed.contigs[:5])}); "
                "give a BED file of this genome"
            )
        for contig, start, end in zip(bed.contig, bed.start, bed.end, strict=True):
            if (ours := names.get(bed.contigs[contig])) is not None:  # rows elsewhere are left out, and counted
                pieces.setdefault(ours, []).append((int(start), int(end)))
    merged = {}
    for contig, spans in pieces.items():
        start, end = merge_intervals(*np.array(sorted(spans), np.int64).T)
        merged[contig] = start.tolist(), end.tolist()
    return merged
