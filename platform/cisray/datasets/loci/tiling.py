"""Lay windows over regions: where each starts, which are left out, and which make one shard of work."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.folds import SPLITS, Region, Split
from cisray.datasets.loci.regions import NO_SPANS, Masks, Spans, load_spans
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, overlap_bp
from cisray.genome.intervals import Interval
from cisray.geometry import Geometry

NO_MASKS = Masks()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WindowSpec:
    """How windows are laid over a region."""

    stride_bp: int | None = None
    """Bases between window starts of the training split; None lays the predicted parts side by side."""
    eval_stride_bp: int | None = None
    """The same for validation and test; None lays the predicted parts side by side, so that no bin counts twice."""
    edges: Literal["inside", "pad"] = "inside"
    """"inside" keeps windows within their contig; "pad" lets the last ones reach over a contig's end into N."""
    max_n_fraction: float = 0.1
    """Windows with a larger share of N are dropped, and counted; what lies beyond a contig's end is not in it."""
    snap_bp: int = 1
    """Windows start at multiples of this; strides must be multiples of it too."""
    sample_fraction: float = 1.0
    """Share of the windows of every split that is kept; which ones, their loci and the seed decide alone."""
    seed: int = 0
    """Seed of that choice."""
    limit: str | None = None
    """BED file; windows whose predicted part holds no base of it are dropped, and counted."""
    shard_bp: int = 1_000_000
    """Bases of genome in one shard of work; a bigWig is read once per shard."""

    def __post_init__(self) -> None:
        for name in ("stride_bp", "eval_stride_bp", "snap_bp", "shard_bp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"windows: {name}={value}; wanted a positive number of bases")
        if not 0 < self.sample_fraction <= 1:
            raise InputError(f"windows: sample_fraction={self.sample_fraction}; wanted a share above 0, at most 1")
        if not 0 <= self.max_n_fraction <= 1:
            raise InputError(f"windows: max_n_fraction={self.max_n_fraction}; wanted a share from 0 to 1")

    def stride_of(self, split: Split, geometry: Geometry) -> int:
        """Return the bases between window starts in `split`."""
        stride = self.stride_bp if split == "train" else self.eval_stride_bp
        return geometry.target_bp if stride is None else stride

    @property
    def files(self) -> tuple[str, ...]:
        """The input files it names."""
        return () if self.limit is None else (self.limit,)


class Shard(NamedTuple):
    """Windows of one region that are built together: `num_windows` of them, `stride_bp` apart or at `offsets`."""

    contig: str
    start: int
    """Start of the first window; below 0 where a padded window begins before its contig."""
    stride_bp: int
    """0 where `offsets` say where the windows are."""
    num_windows: int
    split: Split
    fold: int
    offsets: tuple[int, ...] = ()
    """Bases from `start` to the start of every window, ascending, where they are not evenly spaced."""

    @property
    def name(self) -> str:
        """Name of the shard's file, after what it covers; sorts in genome order within a contig."""
        start = self.start if self.offsets else max(self.start, 0)
        return f"part-{quote(self.contig, safe='')}-{start:010d}"

    @property
    def starts(self) -> list[int]:
        """Starts of the shard's windows."""
        return [
            self.start + (self.offsets[index] if self.offsets else index * self.stride_bp)
            for index in range(self.num_windows)
        ]


class Tiling(NamedTuple):
    """All shards, and what of the genome and of the windows is in none."""

    shards: list[Shard]
    uncovered_bp: dict[Split, int]
    """Bases of each split that no window's predicted part covers."""
    dropped: dict[Split, dict[str, int]]
    """Windows of each split that were left out, by reason ("not sampled"); the first that holds counts."""
    unassigned_bp: int
    """Bases of the genome that are in no region."""
    limit_left_out: dict[str, int]
    """Intervals of the limit per contig that the genome lacks, by the file's own name."""


class _Laid(NamedTuple):
    """Windows laid over a region: `num_windows` of them, `stride_bp` apart; or `listed` ones."""

    first: int
    stride_bp: int
    num_windows: int
    listed: NDArray[np.int64] | None

    @property
    def starts(self) -> NDArray[np.int64]:
        if self.listed is not None:
            return self.listed
        return self.first + self.stride_bp * np.arange(self.num_windows, dtype=np.int64)


def tile(
    regions: Sequence[Region],
    contig_lengths: Mapping[str, int],
    *,
    geometry: Geometry,
    spec: WindowSpec,
    guard_bp: int = 0,
    masks: Masks = NO_MASKS,
    data_dir: str | None = None,
) -> Tiling:
    """Lay windows over every region, leave out those that `spec` and `masks` do not want, and make shards of the rest.

    Where a region ends inside a contig, its windows keep the margin, or `guard_bp` if that is more, away from the
    end, so that no base that one split stores or measures is predicted in another. Listed windows are taken as they
    are: what they predict is disjoint between splits, what they read and store need not be.

    Raises:
        InputError: a split ends up with no window, a stride is off the grid, a listed window reaches over its
            contig's end though edges are not padded, or the BED file of `spec.limit` does not fit.
    """
    _check_grid(regions, geometry, spec)
    loaded = None if spec.limit is None else load_spans(spec.limit, contig_lengths, data_dir=data_dir)
    limit = None if loaded is None else loaded.spans
    shards: list[Shard] = []
    uncovered_bp: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    dropped: dict[Split, dict[str, int]] = {split: {} for split in SPLITS}
    for region in regions:
        interval, split = region.interval, region.split
        contig_bp = contig_lengths[interval.contig]
        row = _lay(region, contig_bp, geometry=geometry, spec=spec, guard_bp=max(guard_bp, geometry.margin_bp))
        kept: NDArray[np.bool_] | None = None  # all of them
        for reason, unwanted in _unwanted(row, interval.contig, geometry, spec=spec, masks=masks, limit=limit):
            kept = np.ones(row.num_windows, bool) if kept is None else kept
            dropped[split][reason] = dropped[split].get(reason, 0) + int((kept & unwanted).sum())
            kept &= ~unwanted
        uncovered_bp[split] += interval.width - _covered_bp(interval, row, kept, geometry)
        shards += _shards(region, row, kept, spec=spec, geometry=geometry)
    for wanted, share in uncovered_bp.items():
        if not any(shard.split == wanted for shard in shards):
            reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped[wanted].items() if count)
            raise InputError(
                f"the {wanted} split has no window of {geometry.window_bp} bp ({share} bp were given to it); "
                + (
                    f"left out were windows {reasons}"
                    if reasons
                    else "name longer regions in folds, or use a shorter window"
                )
            )
    given_bp = sum(region.interval.width for region in regions)
    unassigned_bp = sum(contig_lengths.values()) - given_bp
    return Tiling(shards, uncovered_bp, dropped, unassigned_bp, {} if loaded is None else loaded.left_out)


def _check_grid(regions: Sequence[Region], geometry: Geometry, spec: WindowSpec) -> None:
    """Raise InputError where strides are off the grid, or asked for though windows are listed."""
    if any(region.starts is not None for region in regions):
        asked = [
            f"{name}={getattr(spec, name)}"
            for name, default in (("stride_bp", None), ("eval_stride_bp", None), ("snap_bp", 1))
            if getattr(spec, name) != default
        ]
        if asked:
            raise InputError(f"windows: {', '.join(asked)}, but folds.sequences lists the windows; remove it")
        return
    for split in SPLITS:
        stride = spec.stride_of(split, geometry)
        if stride % spec.snap_bp:
            raise InputError(
                f"windows: {stride} bp between windows of the {split} split are no multiple of snap_bp={spec.snap_bp}; "
                f"set {'stride_bp' if split == 'train' else 'eval_stride_bp'} to one"
            )


def _lay(region: Region, contig_bp: int, *, geometry: Geometry, spec: WindowSpec, guard_bp: int) -> _Laid:
    """Lay windows over one region, before any is dropped."""
    if region.starts is None:
        stride = spec.stride_of(region.split, geometry)
        lowest, highest = _reach(region, contig_bp, geometry, spec, guard_bp=guard_bp)
        return _Laid(lowest, stride, max(0, (highest - lowest - geometry.window_bp) // stride + 1), None)
    starts = np.array(region.starts, np.int64)
    over = starts[(starts < 0) | (starts + geometry.window_bp > contig_bp)]
    if len(over) and spec.edges != "pad":
        window = Interval(region.interval.contig, int(over[0]), int(over[0]) + geometry.window_bp)
        raise InputError(
            f"folds.sequences: window {window} reaches over the ends of {window.contig}, which has {contig_bp} bases; "
            'set windows.edges = "pad", or take it out'
        )
    return _Laid(int(starts[0]), 0, len(starts), starts)


def _reach(region: Region, contig_bp: int, geometry: Geometry, spec: WindowSpec, *, guard_bp: int) -> tuple[int, int]:
    """Return the first base a window may start at and the base past which none may end."""
    start, end = region.interval.start, region.interval.end
    stride = spec.stride_of(region.split, geometry)
    padded = spec.edges == "pad"
    lowest = start + guard_bp if start > 0 else (-geometry.crop_bp if padded else 0)
    lowest = _on_grid(lowest, geometry, spec)
    highest = end - guard_bp if end < contig_bp else end
    if padded and end == contig_bp:
        # up to the window whose predicted part holds the contig's last base, or the last one that holds any
        first_target = lowest + geometry.crop_bp
        steps = max(0, -(-(end - geometry.target_bp - first_target) // stride))
        steps = min(steps, -(-(end - first_target) // stride) - 1)
        highest = lowest + steps * stride + geometry.window_bp
    return lowest, highest


def _on_grid(lowest: int, geometry: Geometry, spec: WindowSpec) -> int:
    """Return the first start on the grid that is no less; or the one before, if it predicts the contig's first base."""
    later = lowest + -lowest % spec.snap_bp
    earlier = later - spec.snap_bp
    if lowest < 0 and later > lowest and earlier + geometry.crop_bp + geometry.target_bp > 0:
        return earlier
    return later


def _unwanted(
    row: _Laid,
    contig: str,
    geometry: Geometry,
    *,
    spec: WindowSpec,
    masks: Masks,
    limit: Mapping[str, Spans] | None,
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Give every reason to drop windows that applies at all, and for which windows [B] it holds."""
    if row.listed is not None and masks.gaps:
        gaps = masks.gaps.get(contig, NO_SPANS)
        yield "across an assembly gap", _touched(gaps, row.listed, geometry.window_bp)
    if limit is not None:
        spans = limit.get(contig, NO_SPANS)
        yield "outside the limit", ~_touched(spans, row.starts + geometry.crop_bp, geometry.target_bp)
    if masks.unmappable:
        fraction = masks.unmappable_fraction(contig, row.starts, geometry)
        yield "with too many unmappable bins", fraction > masks.max_unmappable_fraction
    if spec.sample_fraction < 1:
        draws = locus_draws(contig, row.starts, seed=spec.seed)
        yield "not sampled", draws >= spec.sample_fraction


def _touched(spans: Spans, starts: NDArray[np.int64], width_bp: int) -> NDArray[np.bool_]:
    return overlap_bp(*spans, of_start=starts, of_end=starts + width_bp) > 0


def _covered_bp(interval: Interval, row: _Laid, kept: NDArray[np.bool_] | None, geometry: Geometry) -> int:
    """Count the bases of `interval` that lie in the predicted part of a window that is kept."""
    width_bp = geometry.target_bp
    if kept is None and row.listed is None and row.stride_bp <= width_bp and row.num_windows:  # they make one stretch
        start = row.first + geometry.crop_bp
        end = start + (row.num_windows - 1) * row.stride_bp + width_bp
        return max(0, min(end, interval.end) - max(start, interval.start))
    first = (row.starts if kept is None else row.starts[kept]) + geometry.crop_bp
    spans = merge_intervals(first, first + width_bp)
    return int(overlap_bp(*spans, of_start=np.array([interval.start]), of_end=np.array([interval.end]))[0])


def _shards(
    region: Region, row: _Laid, kept: NDArray[np.bool_] | None, *, geometry: Geometry, spec: WindowSpec
) -> Iterator[Shard]:
    """Cut a region's windows into shards; which of them lie together does not depend on which are kept."""
    contig, split, fold = region.interval.contig, region.split, region.fold
    # of the shards that begin before their contig, only one may begin there: their names would be one
    per_shard = max(1, spec.shard_bp // row.stride_bp, -row.first // row.stride_bp + 1) if row.stride_bp else 0
    if kept is None and row.listed is None:
        for first in range(0, row.num_windows, per_shard):
            size = min(per_shard, row.num_windows - first)
            yield Shard(contig, row.first + first * row.stride_bp, row.stride_bp, size, split, fold)
        return
    starts = row.starts if kept is None else row.starts[kept]
    chunk = (starts - row.first) // (per_shard * row.stride_bp or spec.shard_bp)
    for group in np.split(starts, np.flatnonzero(np.diff(chunk)) + 1):
        if not len(group):  # all are dropped
            continue
        steps, start = np.diff(group), int(group[0])
        if start >= 0 and (steps == steps[:1]).all():  # evenly spaced after all
            step = int(steps[0]) if len(steps) else geometry.target_bp
            yield Shard(contig, start, step, len(group), split, fold)
        else:
            yield Shard(contig, start, 0, len(group), split, fold, tuple((group - start).tolist()))
