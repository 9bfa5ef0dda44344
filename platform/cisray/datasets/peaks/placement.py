"""Place windows over the regions of a genome, and say of each what it holds and what lies under it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.folds import Region, Split
from cisray.datasets.loci.regions import NO_SPANS, Spans
from cisray.datasets.loci.tiling import WindowSpec
from cisray.genome.bed import merge_intervals, overlap_bp
from cisray.genome.reference import Reference
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry

_READ_BP = 1 << 22  # bases read at once
_MOST_RUN = 1 << 16  # windows handled at once


class Windows(NamedTuple):
    """Windows and the region that owns each, sorted by region and start."""

    region: NDArray[np.int64]
    """Index of the region, [M]."""
    start: NDArray[np.int64]
    """First base on the contig, [M]."""

    @classmethod
    def of(cls, region: NDArray[np.int64], start: NDArray[np.int64]) -> Self:
        """Sort windows and leave out the second of two equal ones."""
        order = np.lexsort((start, region))
        region, start = region[order], start[order]
        is_new = np.ones(len(start), bool)
        is_new[1:] = (np.diff(region) != 0) | (np.diff(start) != 0)
        return cls(region[is_new], start[is_new])

    def pick(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Windows":
        """Return some of the windows; `rows` is a mask or rising indices."""
        return Windows(self.region[rows], self.start[rows])


class Composition(NamedTuple):
    """What the bases of each window are, [M] each."""

    gc_fraction: NDArray[np.float64]
    """Share of G and C among the bases that are known; 0 where none is."""
    n_fraction: NDArray[np.float64]


class Ground:
    """The regions of a genome, and where in each a window may begin."""

    def __init__(
        self,
        regions: Sequence[Region],
        contig_lengths: Mapping[str, int],
        *,
        geometry: Geometry,
        spec: WindowSpec,
        guard_bp: int = 0,
    ) -> None:
        """Lay out where windows may begin; `guard_bp` are kept from where another region begins, or the margin."""
        self.regions = list(regions)
        self.geometry = geometry
        order = {contig: index for index, contig in enumerate(contig_lengths)}
        self._contigs = list(contig_lengths)
        self._contig_of = np.array([order[region.interval.contig] for region in regions], np.int64)
        guard_bp = max(guard_bp, geometry.margin_bp)
        reach = [
            _reach(region, contig_lengths[region.interval.contig], geometry, spec, guard_bp=guard_bp)
            for region in regions
        ]
        self.lowest = np.array([low for low, _ in reach], np.int64)
        """First start of a window in each region, [R]."""
        self.highest = np.array([high for _, high in reach], np.int64)
        """Last start; below the first where a region is too short for a window."""
        self.groups = sorted({(region.split, region.fold) for region in regions})
        """The pairs of split and fold that occur."""
        index_of = {group: index for index, group in enumerate(self.groups)}
        self.group_of = np.array([index_of[region.split, region.fold] for region in regions], np.int64)
        """Index of each region's group, [R]."""

        self._on_contig = {}  # per contig, its regions with their starts and ends
        for index in np.unique(self._contig_of).tolist():
            own = np.flatnonzero(self._contig_of == index)
            edges = [(regions[one].interval.start, regions[one].interval.end) for one in own.tolist()]
            self._on_contig[self._contigs[index]] = (own, *np.array(edges, np.int64).T)

    def contig_rows(self, windows: Windows) -> Iterator[tuple[str, slice]]:
        """Yield the contigs of windows with the rows that lie on each."""
        contig = self._contig_of[windows.region]
        edges = np.flatnonzero(np.diff(contig, prepend=-1, append=-1))
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            yield self._contigs[contig[first]], slice(first, last)

    def runs(self, windows: Windows) -> Iterator[tuple[str, slice]]:
        """Yield as `contig_rows` does, many rows in several parts, which bounds memory."""
        for contig, rows in self.contig_rows(windows):
            for first in range(rows.start, rows.stop, _MOST_RUN):
                yield contig, slice(first, min(first + _MOST_RUN, rows.stop))

    def counts(self, windows: Windows) -> NDArray[np.int64]:
        """Count the windows of each group, [G]."""
        return np.bincount(self.group_of[windows.region], minlength=len(self.groups))

    def in_splits(self, splits: Sequence[Split]) -> NDArray[np.bool_]:
        """Tell which groups are of one of the splits, [G]."""
        return np.array([split in splits for split, _ in self.groups])

    def by_split(self, counts: NDArray[np.int64]) -> dict[Split, int]:
        """Add the counts of groups [G] up by split."""
        total: dict[Split, int] = {}
        for (split, _), count in zip(self.groups, counts.tolist(), strict=True):
            total[split] = total.get(split, 0) + count
        return total

    def locate(self, contig: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the region that holds each position, -1 where none does."""
        if contig not in self._on_contig:
            return np.full(len(positions), -1)
        own, starts, ends = self._on_contig[contig]
        place = np.searchsorted(starts, positions, side="right") - 1
        inside = (place >= 0) & (positions < ends[place])
        return np.where(inside, own[place], -1)

    def fit(self, windows: Windows) -> NDArray[np.bool_]:
        """Tell which windows lie within their region, and keep their margin from where another one begins."""
        return (windows.start >= self.lowest[windows.region]) & (windows.start <= self.highest[windows.region])

    def lattice(self, stride_bp: int, *, seed: int) -> Windows:
        """Lay windows over every region, `stride_bp` apart, from a place drawn for each region."""
        region, start = [], []
        for index, (low, high) in enumerate(zip(self.lowest.tolist(), self.highest.tolist(), strict=True)):
            contig = self.regions[index].interval.contig
            shift = int(locus_draws(contig, np.array([low]), seed=seed)[0] * min(stride_bp, max(1, high - low + 1)))
            start.append(np.arange(low + shift, high + 1, stride_bp))
            region.append(np.full(len(start[-1]), index))
        return Windows(np.concatenate(region), np.concatenate(start))

    def draws(self, windows: Windows, *, seed: int) -> NDArray[np.float64]:
        """Return a number in [0, 1) for each window, by its place alone, [M]."""
        drawn = np.zeros(len(windows.start))
        for contig, rows in self.runs(windows):
            drawn[rows] = locus_draws(contig, windows.start[rows], seed=seed)
        return drawn

    def overlap_bp(self, windows: Windows, spans: Mapping[str, Spans]) -> NDArray[np.int64]:
        """Return how many bases of each window lie in the stretches of its contig, [M]."""
        bases = np.zeros(len(windows.start), np.int64)
        for contig, rows in self.runs(windows):
            start = windows.start[rows]
            of = spans.get(contig, NO_SPANS)
            bases[rows] = overlap_bp(*of, of_start=start, of_end=start + self.geometry.window_bp)
        return bases

    def spans(self, windows: Windows) -> dict[str, Spans]:
        """Return the stretches that windows cover, by contig."""
        found: dict[str, Spans] = {}
        for contig, rows in self.runs(windows):
            start = windows.start[rows]
            found = join_spans(found, {contig: Spans(*merge_intervals(start, start + self.geometry.window_bp))})
        return found

    def composition(self, windows: Windows, reference: Reference) -> Composition:
        """Count the bases of every window, reading the genome once; overlapping windows cost no more."""
        width = self.geometry.window_bp
        gc, unknown = np.zeros(len(windows.start)), np.zeros(len(windows.start))
        for contig, rows in self.runs(windows):
            starts = windows.start[rows]
            row, last = 0, len(starts)
            while row < last:
                after = int(np.searchsorted(starts, starts[row] + _READ_BP, side="right"))
                part, begin = starts[row:after], int(starts[row])
                codes = reference.codes(contig, begin, int(part[-1]) + width)
                at = slice(rows.start + row, rows.start + after)
                gc[at] = _window_sums((codes == 1) | (codes == 2), part - begin, width)
                unknown[at] = _window_sums(codes == UNKNOWN, part - begin, width)
                row = after
        return Composition(gc / np.maximum(1, width - unknown), unknown / width)


def join_spans(one: Mapping[str, Spans], other: Mapping[str, Spans]) -> dict[str, Spans]:
    """Return the stretches that lie in either, by contig."""
    joined = {}
    for contig in dict.fromkeys([*one, *other]):
        parts = [spans[contig] for spans in (one, other) if contig in spans]
        start = np.concatenate([part.start for part in parts])
        end = np.concatenate([part.end for part in parts])
        order = np.argsort(start, kind="stable")
        joined[contig] = Spans(*merge_intervals(start[order], end[order]))
    return joined


def _reach(region: Region, contig_bp: int, geometry: Geometry, spec: WindowSpec, *, guard_bp: int) -> tuple[int, int]:
    """Return the first and the last start of a region's windows, as datasets.loci.tiling has them."""
    start, end = region.interval.start, region.interval.end
    beyond_bp = geometry.crop_bp if spec.edges == "pad" else 0
    lowest = start + guard_bp if start > 0 else -beyond_bp
    highest = end - guard_bp if end < contig_bp else contig_bp + beyond_bp
    return lowest, highest - geometry.window_bp


def _window_sums(marked: NDArray[np.bool_], first: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    total = np.zeros(len(marked) + 1, np.int64)
    np.cumsum(marked, out=total[1:])
    return total[first + width] - total[first]


def jitter_by_locus(contig: str, positions: NDArray[np.int64], *, jitter_bp: int, seed: int) -> NDArray[np.int64]:
    """Shift positions by up to `jitter_bp` to either side, each by what its place and the seed alone decide."""
    drawn = locus_draws(contig, positions, seed=seed)
    return positions + (drawn * (2 * jitter_bp + 1)).astype(np.int64) - jitter_bp


def space_out(windows: Windows, priority: NDArray[np.float64], *, spacing_bp: int) -> NDArray[np.bool_]:
    """Keep windows by falling priority whose start is at least `spacing_bp` from that of any kept one of its region."""
    kept = np.zeros(len(windows.start), bool)
    kept_at: dict[tuple[int, int], int] = {}  # by region and stretch of spacing_bp, which holds one at most
    for row in np.lexsort((windows.start, windows.region, -priority)).tolist():
        region, start = int(windows.region[row]), int(windows.start[row])
        cell = start // spacing_bp
        near = (kept_at.get((region, cell + step)) for step in (-1, 0, 1))
        if all(other is None or abs(other - start) >= spacing_bp for other in near):
            kept_at[region, cell] = start
            kept[row] = True
    return kept
