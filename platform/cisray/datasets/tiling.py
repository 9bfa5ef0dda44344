"""Lay windows over regions: where each starts, and which windows make one shard of work."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.folds import SPLITS, Region, Split
from cisray.errors import InputError
from cisray.genome.intervals import Interval
from cisray.geometry import Geometry


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
    """Windows with a larger share of N are dropped, and counted."""
    shard_bp: int = 1_000_000
    """Bases of genome in one shard of work; a bigWig is read once per shard."""

    def __post_init__(self) -> None:
        for name in ("stride_bp", "eval_stride_bp", "shard_bp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"windows: {name}={value}; wanted a positive number of bases")
        if not 0 <= self.max_n_fraction <= 1:
            raise InputError(f"windows: max_n_fraction={self.max_n_fraction}; wanted a share from 0 to 1")

    def stride_of(self, split: Split, geometry: Geometry) -> int:
        """Return the bases between window starts in `split`."""
        stride = self.stride_bp if split == "train" else self.eval_stride_bp
        return geometry.target_bp if stride is None else stride


class Shard(NamedTuple):
    """Windows of one region that are built together: `num_windows` of them, `stride_bp` apart."""

    contig: str
    start: int
    """Start of the first window; below 0 where a padded window begins before its contig."""
    stride_bp: int
    num_windows: int
    split: Split
    fold: int

    @property
    def name(self) -> str:
        """Name of the shard's file, after what it covers; sorts in genome order within a contig."""
        return f"part-{quote(self.contig, safe='')}-{max(self.start, 0):010d}"

    @property
    def starts(self) -> list[int]:
        """Starts of the shard's windows."""
        return [self.start + index * self.stride_bp for index in range(self.num_windows)]


class Tiling(NamedTuple):
    """All shards, and the bases that no window's predicted part covers, per split."""

    shards: list[Shard]
    uncovered_bp: dict[Split, int]


def tile(
    regions: Sequence[Region],
    contig_lengths: Mapping[str, int],
    *,
    geometry: Geometry,
    spec: WindowSpec,
    guard_bp: int = 0,
) -> Tiling:
    """Lay windows over every region and group them into shards.

    Where a region ends inside a contig, its windows keep the margin, or `guard_bp` if that is more, away from the
    end, so that no base that one split stores or measures is predicted in another.

    Raises:
        InputError: a split ends up with no window.
    """
    shards: list[Shard] = []
    uncovered_bp: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for region in regions:
        interval, split = region.interval, region.split
        stride = spec.stride_of(split, geometry)
        guard = max(guard_bp, geometry.margin_bp)
        lowest, highest = _reach(region, contig_lengths[interval.contig], geometry, spec, guard_bp=guard)
        count = max(0, (highest - lowest - geometry.window_bp) // stride + 1)
        uncovered_bp[split] += interval.width - _covered_bp(
            interval, lowest + geometry.crop_bp, stride, count, width_bp=geometry.target_bp
        )
        # no less than the crop: of the shards that begin before their contig, only one may begin there
        per_shard = max(1, spec.shard_bp // stride, geometry.crop_bp // stride + 1)
        for first in range(0, count, per_shard):
            start = lowest + first * stride
            size = min(per_shard, count - first)
            shards.append(Shard(interval.contig, start, stride, size, split, region.fold))
    for wanted, share in uncovered_bp.items():
        if not any(shard.split == wanted for shard in shards):
            raise InputError(
                f"the {wanted} split has no window of {geometry.window_bp} bp ({share} bp were given to it); "
                "name longer regions in folds, or use a shorter window"
            )
    return Tiling(shards, uncovered_bp)


def _reach(region: Region, contig_bp: int, geometry: Geometry, spec: WindowSpec, *, guard_bp: int) -> tuple[int, int]:
    """Return the first base a window may start at and the base past which none may end."""
    start, end = region.interval.start, region.interval.end
    stride = spec.stride_of(region.split, geometry)
    padded = spec.edges == "pad"
    lowest = start + guard_bp if start > 0 else (-geometry.crop_bp if padded else 0)
    highest = end - guard_bp if end < contig_bp else end
    if padded and end == contig_bp:
        # up to the window whose predicted part holds the contig's last base, or the last one that holds any
        first_target = lowest + geometry.crop_bp
        steps = max(0, -(-(end - geometry.target_bp - first_target) // stride))
        steps = min(steps, -(-(end - first_target) // stride) - 1)
        highest = lowest + steps * stride + geometry.window_bp
    return lowest, highest


def _covered_bp(interval: Interval, first: int, stride: int, count: int, *, width_bp: int) -> int:
    """Count the bases of `interval` that lie in one of `count` stretches of `width_bp`, `stride` apart from `first`."""
    if stride <= width_bp and count:  # they make one stretch
        count, width_bp = 1, (count - 1) * stride + width_bp
    starts = range(first, first + count * stride, stride)
    return sum(max(0, min(start + width_bp, interval.end) - max(start, interval.start)) for start in starts)
