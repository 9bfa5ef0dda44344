"""A score table in the figures that a page needs, read block by block, so that memory does not grow with its rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cisray.scoring.manifest import Manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import iter_blocks

NUM_BINS = 120
"""Bins of a distribution."""
GRID = (2000, 400)
"""Cells of the genome-wide picture, along the contigs and upwards."""
ROW_COLUMNS = ("chrom", "pos", "id", "ref", "alt", "record_index", "allele_index", "flags")


class TopRow(NamedTuple):
    """One of the rows with the largest scores."""

    largest: float
    """Largest absolute value over tracks."""
    row: dict[str, object]
    """The row's columns, as ROW_COLUMNS names them."""
    values: NDArray[np.float32]
    """The score per track, [T]."""


@dataclass
class Extent:
    """What the values of one score come to, per track [T]."""

    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    raised: NDArray[np.int64]
    """Rows above 0."""
    lowered: NDArray[np.int64]
    above_noise: NDArray[np.int64]
    """Rows whose absolute value exceeds the noise floor."""
    edges: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Edges of the distribution's bins, [K + 1]."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Rows per bin, [T, K]."""


@dataclass
class Summary:
    """What a page shows of a score table."""

    main: str
    """The score that rows are ranked by."""
    num_scored: int
    extents: dict[str, Extent]
    top: list[TopRow]
    contig_ends: dict[str, int]
    """Largest position of a scored row per contig, in order of appearance."""
    occupied: NDArray[np.bool_]
    """Cells of the genome-wide picture that hold a row, as GRID says."""

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """Where each contig lies when all stand end to end, in bases."""
        ends = np.cumsum(list(self.contig_ends.values())).tolist()
        return dict(zip(self.contig_ends, zip([0, *ends], ends, strict=False), strict=True))

    @property
    def largest(self) -> float:
        """Largest absolute value of the main score; 0 where no row is scored."""
        one = self.extents[self.main]
        return float(max(one.highest.max(), -one.lowest.min())) if self.num_scored else 0.0


def summarise(scores_dir: Path, manifest: Manifest, *, num_top: int) -> Summary:
    """Read a score table twice: once for its extent and its top rows, once for its distributions."""
    main = main_score(manifest)
    num_tracks = len(manifest.listed_tracks)
    summary = Summary(
        main=main,
        num_scored=0,
        extents={name: _empty_extent(num_tracks) for name in manifest.scores},
        top=[],
        contig_ends={},
        occupied=np.zeros(GRID, bool),
    )
    for block in iter_blocks(scores_dir, [*ROW_COLUMNS, *manifest.scores]):
        _measure(summary, block, manifest, num_top=num_top)
    for one in summary.extents.values():
        one.edges = _even_edges(one, summary.num_scored)
        one.counts = np.zeros((num_tracks, NUM_BINS), np.int64)
    if summary.num_scored:
        for block in iter_blocks(scores_dir, ["chrom", "pos", *manifest.scores]):
            _count(summary, block)
    return summary


def main_score(manifest: Manifest) -> str:
    """Return the score that rows are ranked by: log2fc, or else the first."""
    return "log2fc" if "log2fc" in manifest.scores else next(iter(manifest.scores))


def pick_top(values: NDArray[np.float32], num_top: int) -> NDArray[np.intp]:
    """Return the rows of values [S, T] with the largest absolute values, largest first, earlier rows first if equal."""
    largest = np.abs(values).max(axis=1)
    if len(largest) > num_top:
        least = np.partition(largest, -num_top)[-num_top]
        rows = np.flatnonzero(largest >= least)
    else:
        rows = np.arange(len(largest))
    return rows[np.argsort(-largest[rows], kind="stable")][:num_top]


def _empty_extent(num_tracks: int) -> Extent:
    zeros = np.zeros(num_tracks, np.int64)
    return Extent(
        lowest=np.full(num_tracks, np.inf),
        highest=np.full(num_tracks, -np.inf),
        raised=zeros,
        lowered=zeros,
        above_noise=zeros,
    )


def _measure(summary: Summary, block: pa.Table, manifest: Manifest, *, num_top: int) -> None:
    """Add a block's rows to the extent of each score, to the contigs and to the top rows."""
    for name, one in summary.extents.items():
        values, scored = score_values(block, name)  # [S, T], [R]
        if not len(values):
            return
        one.lowest = np.minimum(one.lowest, values.min(axis=0))
        one.highest = np.maximum(one.highest, values.max(axis=0))
        one.raised = one.raised + (values > 0).sum(axis=0)
        one.lowered = one.lowered + (values < 0).sum(axis=0)
        one.above_noise = one.above_noise + (np.abs(values) > (manifest.noise_floor[name] or 0.0)).sum(axis=0)
        if name == summary.main:
            rows = block.filter(pa.array(scored))
            summary.num_scored += len(values)
            summary.top = _merge_top(summary.top, rows, values, num_top=num_top)
            ends = rows.select(["chrom", "pos"]).group_by("chrom", use_threads=False)
            for row in ends.aggregate([("pos", "max")]).to_pylist():
                contig = row["chrom"]
                summary.contig_ends[contig] = max(summary.contig_ends.get(contig, 0), row["pos_max"])


def _merge_top(top: list[TopRow], rows: pa.Table, values: NDArray[np.float32], *, num_top: int) -> list[TopRow]:
    """Put a block's largest rows among those found so far; of equal ones the earlier comes first."""
    chosen = pick_top(values, num_top)
    found = rows.select(list(ROW_COLUMNS)).take(pa.array(chosen)).to_pylist()
    new = [
        TopRow(float(np.abs(values[index]).max()), row, values[index].copy())
        for index, row in zip(chosen, found, strict=True)
    ]
    order = [*top, *new]
    order.sort(key=lambda one: (-one.largest, one.row["record_index"], one.row["allele_index"]))
    return order[:num_top]


def _even_edges(one: Extent, num_scored: int) -> NDArray[np.float64]:
    """Return NUM_BINS + 1 edges, evenly from the lowest to the highest value over tracks, 0 among them."""
    low, high = (min(0.0, one.lowest.min()), max(0.0, one.highest.max())) if num_scored else (0.0, 0.0)
    if low == high:
        low, high = -1.0, 1.0
    return np.linspace(low, high, NUM_BINS + 1)


def _count(summary: Summary, block: pa.Table) -> None:
    """Add a block's rows to the distributions and to the genome-wide picture."""
    for name, one in summary.extents.items():
        values, scored = score_values(block, name)
        num_tracks = values.shape[1]
        # the outermost edges are the extremes, but for rounding
        bins = np.clip(np.searchsorted(one.edges, values, side="right") - 1, 0, NUM_BINS - 1)  # [S, T]
        flat = (bins + np.arange(num_tracks) * NUM_BINS).ravel()
        one.counts += np.bincount(flat, minlength=num_tracks * NUM_BINS).reshape(num_tracks, NUM_BINS)
        if name == summary.main and len(values):
            rows = block.filter(pa.array(scored))
            _occupy(summary, rows, np.abs(values).max(axis=1))


def _occupy(summary: Summary, rows: pa.Table, largest: NDArray[np.float32]) -> None:
    """Mark the cells of the genome-wide picture that rows [S] with their largest values [S] fall into."""
    spans = summary.spans
    starts = np.array([start for start, _ in spans.values()])
    total = max(end for _, end in spans.values())
    names = rows["chrom"].combine_chunks().dictionary_encode()
    index_of = {contig: index for index, contig in enumerate(spans)}
    contigs = np.array([index_of[name] for name in names.dictionary.to_pylist()])
    places = starts[contigs[names.indices.to_numpy()]] + rows["pos"].to_numpy() - 1
    columns = np.clip(places / total * GRID[0], 0, GRID[0] - 1).astype(np.int64)
    heights = largest.astype(np.float64) / (summary.largest or 1.0)
    summary.occupied[columns, np.clip(heights * GRID[1], 0, GRID[1] - 1).astype(np.int64)] = True
