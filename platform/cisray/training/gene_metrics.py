"""How well a model tells genes apart, and tracks: what the bins of each gene sum up to, compared across both.

The sums grow with genes and tracks only, whatever the number of windows, and add up exactly over files and workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.genome.genes import GenePart, Genes
from cisray.geometry import Geometry
from cisray.training.metrics import HeldValues, TrackSums, WindowMeans

GENE_DEFINITIONS = {
    "gene_pearson": "Pearson correlation across genes of log2(1 + sum), per track; a gene's sum is over the bins that "
    "share a base with its exons (or its span), on the natural scale, and counts as 0 below 0; where windows overlap, "
    "each base counts once",
    "gene_spearman": "Spearman's rank correlation of the same sums across genes, per track; exact, ties share a rank",
    "gene_specificity": "Pearson correlation across genes, per track, of how far a gene lies above or below what is "
    "usual for it: log2(1 + sum) is quantile-normalised (each track's values take, by rank, the mean over tracks of "
    "the values of that rank, ties their mean), then each gene's mean over tracks is taken off; prediction and "
    "measurement each by themselves, over the genes that all tracks have",
    "track_specificity": "Pearson correlation across tracks of the same values of a gene, then the mean over genes; "
    "genes in which either side is constant do not count; only with three tracks or more",
}
LEAST_TRACKS = 3  # two values without their mean are x and -x, so that any two genes correlate by 1 or -1
_MOST_VALUES = 1 << 22  # of bins that are gathered at once


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GeneSpec:
    """Which genes are measured, and on which of their bases."""

    file: str
    """A gene annotation, GTF or GFF3."""
    part: GenePart = "exons"
    """"exons" for RNA; "span" for what lies on introns too, such as chromatin."""
    biotypes: tuple[str, ...] = ()
    """Only genes of these, such as protein_coding; empty takes all."""
    least_covered: float = 1.0
    """Genes of which a smaller share of bases lies in bins with data are left out, and counted, track by track."""

    def __post_init__(self) -> None:
        if not 0 < self.least_covered <= 1:
            raise InputError(
                f"genes: least_covered={self.least_covered}; wanted a share of a gene's bases, above 0 and up to 1"
            )


class GeneBins(NamedTuple):
    """Which bins of some windows count for which genes."""

    bin: NDArray[np.int64]
    """Position among the windows' bins, flattened [B * N], [M]."""
    gene: NDArray[np.int64]
    """[M]"""
    weight: NDArray[np.float64]
    """Share of the bin that is its window's own: less than 1 where bins of two windows overlap, [M]."""
    bases: NDArray[np.int64]
    """Bases of the gene in that share, [M]."""


class GeneScores(NamedTuple):
    """What the sums of genes come to; what cannot be told is NaN."""

    num_genes: Tensor
    """Genes with enough of their bases under windows with data, per track, [T]."""
    pearson: Tensor
    """[T]"""
    spearman: Tensor
    """[T]"""
    specificity: Tensor
    """[T]"""
    num_compared: int
    """Genes that all tracks with data have: those of both specificities."""
    across_tracks: float
    num_across: int
    """Genes of `across_tracks`: those that are constant on neither side."""


def own_stretches(contigs: Sequence[str], starts: NDArray[np.integer], geometry: Geometry) -> NDArray[np.int64]:
    """Return, of the predicted part of each window, the bases that no window before it has: first and end, [W, 2].

    Before is along the contig. The stretches of all windows are disjoint, and cover what the windows do.
    """
    first = starts.astype(np.int64) + geometry.crop_bp
    own = np.stack([first, first + geometry.target_bp], axis=1)
    names = np.asarray(contigs)
    for contig in np.unique(names):
        rows = np.flatnonzero(names == contig)
        rows = rows[np.argsort(first[rows], kind="stable")]
        own[rows[1:], 0] = np.maximum(own[rows[1:], 0], own[rows[:-1], 1])
    return own


def genes_under(genes: Genes, contigs: Sequence[str], own: NDArray[np.int64], *, part: GenePart) -> Genes:
    """Return the genes that share a base with the windows' own stretches [W, 2], in order."""
    names, found = np.asarray(contigs), []
    for contig in np.unique(names):
        rows = own[names == contig]
        found.append(genes.overlaps(str(contig), rows[:, 0], rows[:, 1], part=part).gene)
    under = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return Genes([genes.genes[index] for index in under.tolist()], genes.facts)


def find_gene_bins(
    genes: Genes,
    contigs: Sequence[str],
    starts: NDArray[np.integer],
    own: NDArray[np.int64],
    *,
    geometry: Geometry,
    part: GenePart,
) -> GeneBins:
    """Return which bins of windows at `starts` [B], of which they own stretches [B, 2], count for which genes."""
    names, found = np.asarray(contigs), []
    offsets = geometry.crop_bp + np.arange(geometry.num_bins) * geometry.bin_bp
    for contig in np.unique(names):
        rows = np.flatnonzero(names == contig)
        begins = starts[rows, None] + offsets  # [b, N]
        first = np.maximum(begins, own[rows, :1]).ravel()
        end = np.minimum(begins + geometry.bin_bp, own[rows, 1:]).ravel()
        query, gene, bases = genes.overlaps(str(contig), first, end, part=part)
        row, place = np.divmod(query, geometry.num_bins)
        weight = (end[query] - first[query]) / geometry.bin_bp
        found.append(GeneBins(rows[row] * geometry.num_bins + place, gene, weight, bases))
    return GeneBins(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


class GeneSums:
    """Sums over the bins of each gene, float64 [3, G, T]: predicted, measured, and the bases of the gene with data."""

    def __init__(self, num_genes: int, num_tracks: int) -> None:
        self.sums = torch.zeros(3, num_genes, num_tracks, dtype=torch.float64)

    def update(self, predictions: Tensor, targets: Tensor, bins: GeneBins) -> None:
        """Add windows of [B, N, T] predictions and targets; a bin whose target is NaN is left out."""
        x, y = predictions.flatten(0, 1), targets.flatten(0, 1)
        at_once = max(1, _MOST_VALUES // max(1, x.shape[1]))
        for first in range(0, len(bins.bin), at_once):
            part = slice(first, first + at_once)
            place, gene = torch.from_numpy(bins.bin[part]), torch.from_numpy(bins.gene[part])
            weight, bases = (torch.from_numpy(column[part])[:, None].double() for column in (bins.weight, bins.bases))
            present = ~torch.isnan(y[place])
            for index, terms in enumerate((x[place] * weight, y[place] * weight, bases)):
                self.sums[index].index_add_(0, gene, torch.where(present, terms, 0.0))

    def touched(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the genes that have any base, [K], and their sums, [3, K, T]: what `add` takes."""
        genes = self.sums[2].any(dim=1).nonzero()[:, 0]
        return genes.numpy(), self.sums[:, genes].numpy()

    def add(self, genes: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        """Add what another's `touched` returned."""
        self.sums.index_add_(1, torch.from_numpy(genes), torch.from_numpy(sums))

    def covered(self, part_bp: NDArray[np.int64]) -> Tensor:
        """Return the share of each gene's `part_bp` [G] bases that lies in bins with data, [G, T]."""
        return self.sums[2] / torch.from_numpy(part_bp)[:, None].double()

    def log_sums(self, part_bp: NDArray[np.int64], *, least_covered: float) -> tuple[Tensor, Tensor]:
        """Return log2(1 + sum) of predictions and of measurements, [G, T]; NaN where less than that share is covered.

        Raises FloatingPointError for a predicted sum that is not a finite number.
        """
        enough = self.covered(part_bp) >= least_covered
        wrong = int((~torch.isfinite(self.sums[0]) & enough).sum())
        if wrong:
            raise FloatingPointError(
                f"{wrong} predicted sums of genes are not finite numbers; the weights have diverged"
            )
        x, y = (torch.where(enough, torch.log2(1 + sums.clamp(min=0)), torch.nan) for sums in self.sums[:2])
        return x, y


def score_genes(predicted: Tensor, measured: Tensor) -> GeneScores:
    """Compare log2(1 + sum) of genes, [G, T] each, both NaN where a gene does not count for a track."""
    num_tracks = measured.shape[1]
    held = HeldValues(num_tracks)
    held.update(predicted[None], measured[None])
    present = ~torch.isnan(measured)
    tracks = present.any(dim=0)
    compared = present[:, tracks].all(dim=1) & bool(tracks.any())
    x, y = (_stand_out(values[compared][:, tracks]) for values in (predicted, measured))  # [K, U]
    specificity = torch.full((num_tracks,), torch.nan, dtype=torch.float64)
    specificity[tracks] = _pearson(x, y)
    of_genes = WindowMeans(1, ("pearson",))
    if x.shape[1] >= LEAST_TRACKS:
        of_genes.update(x[:, :, None], y[:, :, None])  # a gene is a window of tracks
    return GeneScores(
        num_genes=present.sum(dim=0),
        pearson=_pearson(predicted, measured),
        spearman=held.spearman(),
        specificity=specificity,
        num_compared=len(x),
        across_tracks=float(of_genes.mean("pearson")),
        num_across=int(of_genes.num_windows("pearson")),
    )


def quantile_normalise(values: Tensor) -> Tensor:
    """Give all columns of [G, T] one distribution: by rank, the mean over columns; ties get the mean of theirs."""
    ordered, _ = values.T.contiguous().sort(dim=1)  # [T, G]
    total = torch.nn.functional.pad(ordered.mean(dim=0).cumsum(dim=0), (1, 0))  # [G + 1]
    columns = values.T.contiguous()
    first, after = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    return ((total[after] - total[first]) / (after - first)).T


def _stand_out(values: Tensor) -> Tensor:
    """Return how far values [G, T] lie above their gene's mean over tracks, after quantile normalisation."""
    if not values.numel():
        return values
    same = quantile_normalise(values)
    mean = same.mean(dim=1, keepdim=True)
    return torch.where((same - mean).abs() > 1e-12 * mean.abs(), same - mean, 0)  # what is rounding is nothing


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation of each column of [G, T], [T]; NaN where either side is constant."""
    sums = TrackSums(x.shape[1])
    sums.update(x[None], y[None])
    return sums.pearson()
