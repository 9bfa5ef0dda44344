"""What every source of a dataset offers: a plan of shards, made once, and the rows of a shard, made anywhere.

A source is made in the driver, which asks it for its plan, and once in every worker process, which asks it for shards.
Its settings are a frozen dataclass; what it opens, it opens itself. Equal settings and files give equal rows.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.card import Genome, Kind, Track
from cisray.datasets.loci.folds import Split
from cisray.datasets.schema import Layout
from cisray.datasets.statistics import Tally
from cisray.genome.haplotypes import Haplotype, HaplotypeSpec
from cisray.genome.reference import Reference

# Windows that leave out no more bases than so many times their own are cut from one stretch of at most this length.
_DENSE = 4
_STRETCH_BP = 1 << 22


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenomeSpec:
    """Which genome."""

    name: str
    fasta: str
    """FASTA below data_dir, plain, gzip or bgzip."""
    ignore_contigs: tuple[str, ...] = ()
    """Contigs of other files that the FASTA lacks and that are left out knowingly."""
    haplotype: HaplotypeSpec | None = None
    """A sample whose variants are applied; coordinates stay those of the FASTA."""


class PlannedShard(NamedTuple):
    """One shard of work: its name, and what a worker must know to make its rows."""

    name: str
    """Names its file; unique in the dataset."""
    split: Split
    num_rows: int
    """Rows it makes at most."""
    values: dict[str, Any]
    """Plain values: numbers, text, lists of them."""


class Plan(NamedTuple):
    """What is to be built, known before any work."""

    shards: list[PlannedShard]
    """In the order of the dataset's files."""
    dropped: dict[str, int]
    """What the plan leaves out, by reason."""
    regions: dict[str, list[str]]
    """Per split, the regions of the genome it owns; empty without a genome."""
    facts: dict[str, Any]
    """What the source chose, for the card."""


class BuiltShard(NamedTuple):
    """A shard's rows, and what was counted while they were made."""

    rows: pa.Table
    tally: Tally
    dropped: dict[str, int]
    """Windows that the plan held and the rows do not, by reason; the same reasons for every shard of a source."""


class Source(Protocol):
    """Makes the rows of a dataset."""

    kind: Kind
    layout: Layout
    tracks: tuple[Track, ...]
    genome: Genome | None
    paths: list[Path]
    """Every input file."""
    contig_names: dict[str, dict[str, str]]
    """Per input, its contig names that differ from the genome's, and what they were mapped to."""
    absent_contigs: dict[str, list[str]]
    """Per input, contigs of the genome that it lacks."""

    def plan(self) -> Plan:
        """Lay out the work; raise InputError where it cannot be done, before any of it is."""

    def build(self, values: dict[str, Any]) -> BuiltShard:
        """Make the rows of a planned shard from its values."""


def open_genome(spec: GenomeSpec, data_dir: str | None) -> Reference | Haplotype:
    """Open the bases that rows are cut from: the FASTA's, or a sample's."""
    reference = Reference(data_path(spec.fasta, data_dir))
    return reference if spec.haplotype is None else Haplotype(reference, spec.haplotype, data_dir)


def read_windows(
    genome: Reference | Haplotype, contig: str, starts: NDArray[np.int64], width_bp: int
) -> NDArray[np.uint8]:
    """Return the codes [B, width_bp] of stretches that begin at rising `starts`, N beyond the contig's ends."""
    shifts = isinstance(genome, Haplotype) and genome.spec.indels == "apply"  # then a window is no part of a stretch
    span_bp = int(starts[-1] - starts[0]) if len(starts) else 0
    if len(starts) and not shifts and span_bp <= min(_STRETCH_BP, _DENSE * width_bp * len(starts)):
        first = int(starts[0])
        stretch = genome.codes(contig, first, int(starts[-1]) + width_bp)
        return np.lib.stride_tricks.sliding_window_view(stretch, width_bp)[starts - first]
    codes = np.empty((len(starts), width_bp), np.uint8)
    for row, start in enumerate(starts.tolist()):
        codes[row] = genome.codes(contig, start, start + width_bp)
    return codes


def genome_paths(genome: Reference | Haplotype) -> list[Path]:
    """Return the files that a genome was opened from."""
    return [genome.path] if isinstance(genome, Reference) else [genome.reference.path, genome.path]


def describe_genome(spec: GenomeSpec, genome: Reference | Haplotype) -> Genome:
    """Return what the card says of a genome; digests are the FASTA's, whose coordinates the rows have."""
    reference = genome if isinstance(genome, Reference) else genome.reference
    return Genome(
        name=spec.name,
        fasta=reference.path.name,
        digest=reference.digest,
        contig_lengths=reference.contig_lengths,
        contig_digests=reference.contig_digests,
        haplotype_digest=genome.digest if isinstance(genome, Haplotype) else None,
    )
