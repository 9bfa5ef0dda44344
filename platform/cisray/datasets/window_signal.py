"""Read signal over windows: each track's stretch once, what does not count lowered or masked, the rest in bins."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cisray.datasets.card import Track, track_transforms
from cisray.datasets.loci.regions import NO_SPANS, Masks, MaskSpec
from cisray.datasets.transforms import POOLING, to_target
from cisray.errors import InputError
from cisray.genome.bed import overlap_bp
from cisray.genome.tracks import Signal, bin_values, smooth
from cisray.geometry import Geometry

# A window of fewer bins has no baseline of its own: blacklisted values become 0, as in Calico's builder.
LEAST_BASELINE_BINS = 8


class Masking(NamedTuple):
    """Which stretches do not count, and what becomes of values there."""

    spec: MaskSpec = MaskSpec()
    masks: Masks = Masks()


NO_MASKING = Masking()


class OpenTrack(NamedTuple):
    """A track, its opened file, and what the file calls each contig of the genome."""

    track: Track
    signal: Signal
    foreign_names: Mapping[str, str]
    """Genome contig to the file's contig; a contig that is not here has no data."""
    contig_bp: Mapping[str, int]
    """Bases of each of the file's contigs."""


class Part(NamedTuple):
    """Which part of every window is read, and in which bins."""

    offset_bp: int
    """From the window's start."""
    width_bp: int
    bin_bp: int
    window_bp: int
    signed: bool = False
    """Whether values may be below 0: as an input they may, as a rate to be predicted they may not."""

    @property
    def num_bins(self) -> int:
        """Bins of the part."""
        return self.width_bp // self.bin_bp

    @property
    def reach(self) -> tuple[int, int]:
        """First and last base, from the window's start, of part and window taken together."""
        return min(0, self.offset_bp), max(self.window_bp, self.offset_bp + self.width_bp)


def read_tracks(
    sources: Sequence[OpenTrack],
    contig: str,
    starts: np.ndarray,
    *,
    part: Part,
    masking: Masking,
) -> np.ndarray:
    """Return all tracks over windows that begin at `starts` [B], float32 [B, bins, T]; NaN where there is no data."""
    out = np.full((len(starts), part.num_bins, len(sources)), np.nan, np.float32)
    for index, source in enumerate(sources):
        foreign = source.foreign_names.get(contig)
        if foreign is not None and len(starts):
            pooled = _pool(source, foreign, contig, starts, part=part, masking=masking)
            out[:, :, index] = to_target(pooled[:, :, None], track_transforms([source.track]))[:, :, 0]
    return out


def _pool(
    source: OpenTrack, foreign: str, contig: str, starts: np.ndarray, *, part: Part, masking: Masking
) -> np.ndarray:
    """Read one track's stretch once and return its bins over every window, float64 [B, bins]."""
    first, offsets = int(starts[0]), starts - starts[0]
    black = masking.masks.blacklist.get(contig, NO_SPANS)
    touched = overlap_bp(*black, of_start=starts + part.reach[0], of_end=starts + part.reach[1]) > 0
    if touched.any():
        pooled = _pool_masked(source, foreign, contig, starts, part=part, masking=masking, touched=touched)
    elif source.track.smooth_bp > 1 or (offsets % part.bin_bp).any():
        stretch = (first + part.offset_bp, int(starts[-1]) + part.offset_bp + part.width_bp)
        pooled = _bin_windows(_read(source, foreign, *stretch), offsets, source.track, part)
    else:  # all windows share their bins, which are summed without a value per base
        bins = source.signal.bins(
            foreign,
            first + part.offset_bp,
            int(offsets[-1]) // part.bin_bp + part.num_bins,
            part.bin_bp,
            statistic=POOLING[source.track.statistic],
            uncovered=source.track.uncovered,
        )
        pooled = _share_out(bins, offsets, part)
    _check(pooled, source, foreign, starts, signed=part.signed)
    return pooled


def _check(pooled: np.ndarray, source: OpenTrack, foreign: str, starts: np.ndarray, *, signed: bool) -> None:
    """Raise InputError where a bin [B, bins] is infinite, or below 0 though it is not `signed`."""
    path = source.signal.path
    if not signed and (pooled < 0).any():
        row = int(np.flatnonzero((pooled < 0).any(axis=1))[0])
        raise InputError(
            f"{path}: a bin of the window at {foreign}:{starts[row]} is {np.nanmin(pooled[row]):g}; a Poisson rate is "
            "zero or more: write a minus strand as positive values, a log ratio as a ratio"
        )
    if np.isinf(pooled).any():
        row = int(np.flatnonzero(np.isinf(pooled).any(axis=1))[0])
        raise InputError(f"{path}: a bin of the window at {foreign}:{starts[row]} is infinite; make the file again")


def _pool_masked(
    source: OpenTrack,
    foreign: str,
    contig: str,
    starts: np.ndarray,
    *,
    part: Part,
    masking: Masking,
    touched: np.ndarray,
) -> np.ndarray:
    """Do as `_pool` where blacklisted bases touch some windows [B]: lower or mask those bases."""
    track, (spec, masks), first = source.track, masking, int(starts[0])
    low, high = part.reach  # a baseline is one of the whole window
    values = _read(source, foreign, first + low, int(starts[-1]) + high)
    if spec.blacklist_values == "mask":
        values[masks.blacklisted(contig, first + low, int(starts[-1]) + high)] = np.nan
    used = values[part.offset_bp - low : len(values) - (high - part.offset_bp - part.width_bp)]
    pooled = _bin_windows(used, starts - first, track, part)
    if spec.blacklist_values == "clip":
        for row in np.flatnonzero(touched):
            start = int(starts[row])
            window = values[start - first : start - first + high - low].copy()
            _lower(window, masks.blacklisted(contig, start + low, start + high), spec.blacklist_quantile, part=part)
            inside = window[part.offset_bp - low :][: part.width_bp]
            pooled[row] = bin_values(inside, part.bin_bp, POOLING[track.statistic], "mask")
    return pooled


def _lower(window: np.ndarray, is_black: np.ndarray, quantile: float, *, part: Part) -> None:
    """Lower the blacklisted bases of a window [L] to the quantile of all its bases that have a value, in place."""
    present = window[~np.isnan(window)]
    baseline = np.quantile(present, quantile) if part.num_bins >= LEAST_BASELINE_BINS and len(present) else 0.0
    np.minimum(window, np.float32(baseline), out=window, where=is_black)


def _bin_windows(values: np.ndarray, offsets: np.ndarray, track: Track, part: Part) -> np.ndarray:
    """Bin a stretch [L] for the windows at `offsets` [B] into it, float64 [B, bins]; shared bins are made once."""
    pooling = POOLING[track.statistic]
    if (offsets % part.bin_bp).any():
        windows = [values[offset : offset + part.width_bp] for offset in offsets.tolist()]
        return np.stack([bin_values(one, part.bin_bp, pooling, "mask") for one in windows]).astype(np.float64)
    return _share_out(bin_values(values, part.bin_bp, pooling, "mask"), offsets, part)


def _share_out(bins: np.ndarray, offsets: np.ndarray, part: Part) -> np.ndarray:
    """Cut a stretch's bins [M] into those of the windows at `offsets` [B] bases into it, float64 [B, bins]."""
    return np.lib.stride_tricks.sliding_window_view(bins, part.num_bins)[offsets // part.bin_bp].astype(np.float64)


def _read(source: OpenTrack, foreign: str, first: int, last: int) -> np.ndarray:
    """Return a stretch of a track, float32 [L]: smoothed, NaN where it has no data and beyond the contig's ends."""
    track, flank = source.track, source.track.smooth_bp // 2
    first, last = first - flank, last + flank
    values = source.signal.values(foreign, first, last)
    before = max(0, -first)  # bases beyond the contig's ends stay without a value
    after = max(before, len(values) - max(0, last - source.contig_bp[foreign]))
    if track.uncovered == "zero":
        inside = values[before:after]
        np.copyto(inside, 0, where=np.isnan(inside))
    if track.smooth_bp > 1:
        values = smooth(values, track.smooth_bp)
        values[:before] = values[after:] = np.nan
    return values[flank : len(values) - flank] if flank else values


def lower_unmappable(
    targets: np.ndarray, contig: str, starts: np.ndarray, *, masking: Masking, geometry: Geometry
) -> int:
    """Lower unmappable bins to the quantile of their window, per track, in place; return how many bins those are."""
    spec, masks = masking
    if spec.unmappable_clip_quantile == 1 or contig not in masks.unmappable:
        return 0
    lowered = 0
    is_unmappable = masks.unmappable_bins(contig, starts, geometry)  # [B, N]
    for row in np.flatnonzero(is_unmappable.any(axis=1)):
        bins, window = is_unmappable[row], targets[row]  # [N], [N, T]
        known = ~np.isnan(window)
        filled = np.sort(np.where(known, window, np.inf), axis=0)  # masked bins last
        rank = np.maximum(0, np.floor(spec.unmappable_clip_quantile * (known.sum(axis=0) - 1)).astype(int))
        limit = np.take_along_axis(filled, rank[None], axis=0)
        window[bins] = np.where(known[bins], np.minimum(window[bins], limit), np.nan)
        lowered += int(bins.sum())
    return lowered
