"""Build examples from signal tracks: the bases of a shard's windows, and every track's bins over them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cisray.datasets.schema import Statistics, Track, encode_rows, example_schema
from cisray.datasets.tiling import Shard
from cisray.datasets.transforms import to_target
from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.tracks import SignalFile, bin_values, smooth
from cisray.geometry import Geometry


class TrackSource(NamedTuple):
    """A track, its opened file, and what the file calls each contig of the genome."""

    track: Track
    signal: SignalFile
    foreign_names: Mapping[str, str]
    """Genome contig to the file's contig; a contig that is not here has no data."""


class BuiltShard(NamedTuple):
    """A shard's rows, and what was counted while they were made."""

    rows: pa.Table
    statistics: dict[str, Statistics]
    dropped: dict[str, int]


def build_shard(
    shard: Shard,
    reference: Reference,
    sources: Sequence[TrackSource],
    *,
    geometry: Geometry,
    max_n_fraction: float,
) -> BuiltShard:
    """Read the shard's bases and signal once, cut them into windows, and drop the ones that say nothing."""
    codes = _window_codes(shard, reference, geometry)
    margin = geometry.margin_bp
    n_fraction = (codes[:, margin : margin + geometry.window_bp] == 4).mean(axis=1)
    targets = np.stack([_window_targets(shard, source, geometry) for source in sources], axis=2)  # [B, N, T]
    unknown = n_fraction > max_n_fraction
    empty = ~unknown & np.isnan(targets).all(axis=(1, 2))
    kept = ~(unknown | empty)
    starts = np.array(shard.starts)[kept]
    names = [source.track.name for source in sources]
    rows = pa.table(
        [
            pa.array([shard.contig] * len(starts), pa.string()),
            pa.array(starts),
            pa.array(starts + geometry.window_bp),
            pa.array(["+"] * len(starts), pa.string()),
            pa.array(np.full(len(starts), shard.fold, np.int16)),
            encode_rows(codes[kept]),
            encode_rows(targets[kept]),
        ],
        schema=example_schema(geometry, names),
    )
    statistics = {name: summarise(targets[kept][:, :, index]) for index, name in enumerate(names)}
    dropped = {
        "windows with too many N": int(unknown.sum()),
        "windows without data in any track": int(empty.sum()),
    }
    return BuiltShard(rows, statistics, dropped)


def summarise(values: np.ndarray) -> Statistics:
    """Count and sum one track's bins of any shape; NaN counts as masked."""
    present = values[~np.isnan(values)].astype(np.float64)
    return Statistics(
        num_bins=values.size,
        num_masked=values.size - present.size,
        total=float(present.sum()),
        total_squares=float((present**2).sum()),
        least=float(present.min()) if present.size else None,
        greatest=float(present.max()) if present.size else None,
    )


def _window_codes(shard: Shard, reference: Reference, geometry: Geometry) -> np.ndarray:
    """Return the codes of every window with its margins, uint8 [B, stored_bp]."""
    first = shard.start - geometry.margin_bp
    last = shard.starts[-1] + geometry.window_bp + geometry.margin_bp
    return _cut(reference.codes(shard.contig, first, last), shard, geometry.stored_bp)


def _window_targets(shard: Shard, source: TrackSource, geometry: Geometry) -> np.ndarray:
    """Return one track's targets over every window, float32 [B, N]; NaN where it has no data."""
    track = source.track
    foreign = source.foreign_names.get(shard.contig)
    if foreign is None:
        return np.full((shard.num_windows, geometry.num_bins), np.nan, np.float32)
    flank = track.smooth_bp // 2  # bases that the running mean needs beyond the outermost bins
    first = shard.start + geometry.crop_bp - flank
    last = shard.starts[-1] + geometry.crop_bp + geometry.target_bp + flank
    values = source.signal.values(foreign, first, last)
    before = max(0, -first)  # bases beyond the contig's ends stay without a value
    after = max(before, len(values) - max(0, last - source.signal.contig_lengths[foreign]))
    if track.uncovered == "zero":
        values[before:after] = np.nan_to_num(values[before:after], nan=0.0)
    if track.smooth_bp > 1:
        values = smooth(values, track.smooth_bp)
        values[:before] = values[after:] = np.nan
    values = values[flank : len(values) - flank] if flank else values
    if (values < 0).any():
        raise InputError(
            f"{source.signal.path}: {foreign}:{first + flank}-{last - flank} holds {np.nanmin(values):g}; "
            "a Poisson rate is zero or more: write a minus strand as positive values, a log ratio as a ratio"
        )
    windows = _cut(values, shard, geometry.target_bp)
    bins = bin_values(windows.reshape(-1), geometry.bin_bp, statistic=track.statistic, uncovered="mask")
    scale, clip_soft = np.array(track.scale), np.array(np.inf if track.clip_soft is None else track.clip_soft)
    target = to_target(bins.astype(np.float64), scale, clip_soft)
    return target.astype(np.float32).reshape(shard.num_windows, geometry.num_bins)


def _cut(values: np.ndarray, shard: Shard, width_bp: int) -> np.ndarray:
    """Cut a shard's stretch [L] into its windows, a read-only view [B, width_bp]."""
    return np.lib.stride_tricks.sliding_window_view(values, width_bp)[:: shard.stride_bp][: shard.num_windows]
