"""Read the genes of an annotation, GTF or GFF3, and find which of them overlap an interval.

A gene is what its lines say together: its span is all of them, its exons are the union of its transcripts' exons. In
GTF `gene_id` says what belongs together; in GFF3 it is the chain of parents, up to a line that has none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.annotations import GeneLines, read_annotation
from cisray.genome.bed import merge_intervals
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import suggest_names
from cisray.genome.ranges import join_ranges

GenePart = Literal["exons", "span"]
"""Which bases of a gene are meant: the union of its exons, or all from its first to its last."""


class Gene(NamedTuple):
    """A gene, 0-based half-open, on a contig by the genome's name for it."""

    id: str
    name: str
    """The id where the annotation gives no name."""
    contig: str
    start: int
    end: int
    strand: str
    """"+", "-", or "." where the annotation does not tell."""
    biotype: str
    """Such as protein_coding; empty where the annotation does not tell."""
    exons: NDArray[np.int64]
    """Start and end of each, in order, none overlapping or touching another, [E, 2]."""

    @property
    def tss(self) -> int:
        """The first base that is transcribed, 0-based: of a gene without strand, its first."""
        return self.end - 1 if self.strand == "-" else self.start

    @property
    def exon_bp(self) -> int:
        """Bases of all exons."""
        return int((self.exons[:, 1] - self.exons[:, 0]).sum())

    def intervals(self, part: GenePart) -> NDArray[np.int64]:
        """Return start and end of each stretch of a part, [E, 2]."""
        return self.exons if part == "exons" else np.array([[self.start, self.end]])


class Overlaps(NamedTuple):
    """Which queries overlap which genes, a pair only once, by query and then by gene."""

    query: NDArray[np.int64]
    """Position among the queries, [M]."""
    gene: NDArray[np.int64]
    """Position among the genes, [M]."""
    bases: NDArray[np.int64]
    """Bases that both share, [M]."""


class _Index(NamedTuple):
    """The stretches of one contig by their start; some may overlap."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    gene: NDArray[np.int64]
    reach: NDArray[np.int64]
    """The furthest end up to each."""


class Genes:
    """Genes in the genome's order, to be asked which of them overlap an interval."""

    def __init__(self, genes: Iterable[Gene], facts: Mapping[str, int] | None = None) -> None:
        self.genes = tuple(genes)
        self.facts = dict(facts or {})
        """Counts of what was read and what was left out, by reason."""
        self._indices: dict[GenePart, dict[str, _Index]] = {}

    def __len__(self) -> int:
        return len(self.genes)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_indices": {}}  # made again where it is asked for

    def part_bp(self, part: GenePart) -> NDArray[np.int64]:
        """Return the bases of each gene's part, [G]."""
        widths = (gene.exon_bp if part == "exons" else gene.end - gene.start for gene in self.genes)
        return np.fromiter(widths, np.int64, len(self))

    def overlapping(self, contig: str, start: int, end: int, *, part: GenePart = "exons") -> list[Gene]:
        """Return the genes of which a part overlaps an interval, in order."""
        found = self.overlaps(contig, np.array([start]), np.array([end]), part=part)
        return [self.genes[index] for index in found.gene.tolist()]

    def overlaps(
        self, contig: str, start: NDArray[np.integer], end: NDArray[np.integer], *, part: GenePart = "exons"
    ) -> Overlaps:
        """Find which genes overlap which intervals (start, end) [Q] of a contig; these need no order."""
        if part not in self._indices:
            self._indices[part] = _index(self.genes, part)
        none = np.zeros(0, np.int64)
        index = self._indices[part].get(contig, _Index(none, none, none, none))
        first = np.searchsorted(index.reach, start, side="right")
        count = np.maximum(np.searchsorted(index.start, end, side="left") - first, 0)
        place, query = join_ranges(first, count), np.repeat(np.arange(len(start)), count)
        bases = np.minimum(index.end[place], end[query]) - np.maximum(index.start[place], start[query])
        shared = bases > 0
        pair = query[shared] * max(1, len(self)) + index.gene[place[shared]]
        pairs, which = np.unique(pair, return_inverse=True)
        total = np.bincount(which, bases[shared], len(pairs)).astype(np.int64)
        return Overlaps(*np.divmod(pairs, max(1, len(self))), total)


def read_genes(
    path: Path | str,
    contig_lengths: Mapping[str, int],
    *,
    biotypes: Collection[str] = (),
    contigs: Collection[str] = (),
) -> Genes:
    """Read the genes of a GTF or GFF3 file, plain, gzip or bgzip, on the contigs of a genome.

    Contigs of other names are matched as in genome.contigs. With `biotypes` or `contigs` (by the genome's names) only
    genes of these are kept. A gene without exons has those of its CDS and UTR lines, or else its span. Left out, and
    counted in `facts`: genes on contigs that the genome lacks, and genes on several contigs or both strands.

    Raises:
        InputError: the file is missing, truncated, neither GTF nor GFF3, or without a gene that is wanted; a line is
            not what it should be; or a gene reaches beyond its contig.
    """
    path = Path(path)
    for contig in contigs:
        if contig not in contig_lengths:
            raise InputError(f"genes on contig {contig!r}: not in the genome{suggest_names(contig, contig_lengths)}")
    annotation = read_annotation(path)
    names = map_contigs(annotation.contigs, contig_lengths, source=str(path)).names
    if not names:
        first = next(iter(annotation.contigs))
        raise InputError(
            f"{path}: none of the {len(annotation.contigs)} contigs that its genes lie on is in the genome; the first "
            f"is {first!r}{suggest_names(first, contig_lengths)}; give the annotation of the same assembly"
        )
    counts: Counter[str] = Counter()
    genes = []
    for parts in annotation.genes.values():
        counts["genes read"] += 1
        here = [part for part in parts if part.contig in names]
        if not here:
            counts["genes left out: on contigs that the genome lacks"] += 1
        elif len(here) > 1:
            counts["genes left out: on several contigs or both strands"] += 1
        elif contigs and names[here[0].contig] not in contigs:
            counts["genes left out: on contigs that were not asked for"] += 1
        elif biotypes and here[0].biotype not in biotypes:
            counts["genes left out: of biotypes that were not asked for"] += 1
        else:
            genes.append(_finish(here[0], names[here[0].contig], counts))
            _check_end(genes[-1], here[0], contig_lengths, path)
    counts["genes kept"] = len(genes)
    if not genes:
        known = Counter(part.biotype or "none" for parts in annotation.genes.values() for part in parts)
        raise InputError(
            f"{path}: none of its {counts['genes read']} genes is left ({_told(counts)}); its biotypes are "
            f"{', '.join(name for name, _ in known.most_common(8))}"
        )
    order = {contig: number for number, contig in enumerate(contig_lengths)}
    genes.sort(key=lambda gene: (order[gene.contig], gene.start, gene.end, gene.id))
    return Genes(genes, counts)


def _finish(lines: GeneLines, contig: str, counts: Counter[str]) -> Gene:
    """Make a gene of its lines, and count what its exons were taken from."""
    exons = lines.exons or lines.coding or [(lines.start, lines.end)]
    if not lines.exons:
        counts["genes whose exons are their CDS" if lines.coding else "genes whose exon is their span"] += 1
    start, end = np.array(sorted(exons), np.int64).T
    gene_id = lines.id.removeprefix("gene:").removeprefix("gene-")  # as Ensembl and NCBI begin an ID in GFF3
    return Gene(
        id=gene_id,
        name=lines.name or gene_id,
        contig=contig,
        start=lines.start,
        end=lines.end,
        strand=lines.strand,
        biotype=lines.biotype,
        exons=np.stack(merge_intervals(start, end), axis=1),
    )


def _check_end(gene: Gene, lines: GeneLines, contig_lengths: Mapping[str, int], path: Path) -> None:
    if gene.end > contig_lengths[gene.contig]:
        raise InputError(
            f"{path}: line {lines.last_line}: gene {gene.id} ends at {gene.end}, beyond {gene.contig}, which has "
            f"{contig_lengths[gene.contig]} bases; give the annotation of the same assembly"
        )


def _told(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{reason.split(': ')[1]}: {count}" for reason, count in counts.items() if "left out" in reason)


def _index(genes: Sequence[Gene], part: GenePart) -> dict[str, _Index]:
    """Lay the stretches of all genes out by contig and start."""
    found = {}
    of_contig: dict[str, list[int]] = {}
    for number, gene in enumerate(genes):
        of_contig.setdefault(gene.contig, []).append(number)
    for contig, numbers in of_contig.items():
        stretches = [genes[number].intervals(part) for number in numbers]
        owner = np.repeat(np.array(numbers), [len(each) for each in stretches])
        start, end = np.concatenate(stretches).T
        order = np.lexsort((owner, end, start))
        found[contig] = _Index(start[order], end[order], owner[order], np.maximum.accumulate(end[order]))
    return found
