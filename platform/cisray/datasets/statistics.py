"""Measure what every track holds: running sums over bins that add up over shards, and what looks wrong in them.

    tracks.parquet   name, file, split, the fields of card.Statistics, mean, variance, histogram

The histogram counts targets by size: below 0, exactly 0, then by powers of two from 2^-10 (with all that is smaller) to
2^17 (with all that is larger).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cisray.datasets.card import Card, Statistics, Track, track_transforms
from cisray.datasets.loci.folds import Split
from cisray.files import written_whole

TRACKS_NAME = "tracks.parquet"
LEAST_POWER, GREATEST_POWER = -10, 17
HISTOGRAM_BINS = 2 + GREATEST_POWER - LEAST_POWER + 1
_BLOCK_VALUES = 1 << 16  # as float64 they fit a core's cache
_BLOCK_ROWS = 512  # of many tracks at least so many, or their histograms would be most of the work
_COUNTS = ("num_masked", "num_zero", "num_soft_clipped", "num_clipped")


class Tally(NamedTuple):
    """Counts and sums over the bins of T tracks; those of two shards add up."""

    num_bins: int
    """Bins per track, with data or without."""
    counts: dict[str, np.ndarray]
    """num_masked, num_zero, num_soft_clipped, num_clipped; int64 [T] each."""
    total: np.ndarray
    """float64 [T], as for total_squares."""
    total_squares: np.ndarray
    least: np.ndarray
    """float64 [T]; infinity where every bin is masked, and less infinity in `greatest`."""
    greatest: np.ndarray
    histogram: np.ndarray
    """int64 [T, HISTOGRAM_BINS]."""

    @classmethod
    def of(cls, targets: np.ndarray, tracks: Sequence[Track]) -> Self:
        """Measure float targets [B, N, T], NaN where masked."""
        flat = targets.reshape(-1, targets.shape[-1])
        cuts = track_transforms(tracks).cuts()
        at_once = max(_BLOCK_ROWS, _BLOCK_VALUES // flat.shape[1])
        blocks = [cls._of_block(flat[row : row + at_once], *cuts) for row in range(0, max(1, len(flat)), at_once)]
        return functools.reduce(cls.__add__, blocks)  # type: ignore[arg-type]

    @classmethod
    def _of_block(cls, flat: np.ndarray, soft: np.ndarray, top: np.ndarray) -> Self:
        """Measure a block [M, T] that fits a core's cache."""
        masked = np.isnan(flat)
        num_masked = masked.sum(axis=0)
        known = np.where(masked, flat.dtype.type(0), flat) + flat.dtype.type(0)  # the sum turns -0 into 0
        exact = known.astype(np.float64)
        num_zero = (known == 0).sum(axis=0) - num_masked
        with np.errstate(over="ignore"):  # beyond float16 nothing is cut off
            top = top.astype(flat.dtype)  # what was cut off was rounded like this
        return cls(
            num_bins=len(flat),
            counts={
                "num_masked": num_masked,
                "num_zero": num_zero,
                "num_soft_clipped": (known > soft).sum(axis=0) if np.isfinite(soft).any() else 0 * num_zero,
                "num_clipped": (known >= top).sum(axis=0) if np.isfinite(top).any() else 0 * num_zero,
            },
            total=exact.sum(axis=0),
            total_squares=(exact * exact).sum(axis=0),
            least=np.where(masked, np.inf, exact).min(axis=0, initial=np.inf),
            greatest=np.where(masked, -np.inf, exact).max(axis=0, initial=-np.inf),
            histogram=_histograms(known.astype(np.float32, copy=False), num_masked + num_zero, num_zero),
        )

    def __add__(self, other: "Tally") -> "Tally":  # type: ignore[override]
        return Tally(
            self.num_bins + other.num_bins,
            {name: self.counts[name] + other.counts[name] for name in _COUNTS},
            self.total + other.total,
            self.total_squares + other.total_squares,
            np.minimum(self.least, other.least),
            np.maximum(self.greatest, other.greatest),
            self.histogram + other.histogram,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a receipt; `from_dict` takes them back without a loss."""
        return {
            "num_bins": self.num_bins,
            "counts": {name: values.tolist() for name, values in self.counts.items()},
            "total": self.total.tolist(),
            "total_squares": self.total_squares.tolist(),
            "least": [None if np.isinf(value) else value for value in self.least.tolist()],
            "greatest": [None if np.isinf(value) else value for value in self.greatest.tolist()],
            "histogram": self.histogram.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` made."""
        return cls(
            values["num_bins"],
            {name: np.array(values["counts"][name], np.int64) for name in _COUNTS},
            np.array(values["total"], np.float64),
            np.array(values["total_squares"], np.float64),
            np.array([np.inf if value is None else value for value in values["least"]], np.float64),
            np.array([-np.inf if value is None else value for value in values["greatest"]], np.float64),
            np.array(values["histogram"], np.int64).reshape(-1, HISTOGRAM_BINS),
        )

    def statistics(self, names: Sequence[str]) -> dict[str, Statistics]:
        """Return each track's statistics for the card."""
        return {
            name: Statistics(
                num_bins=self.num_bins,
                **{count: int(values[index]) for count, values in self.counts.items()},
                total=float(self.total[index]),
                total_squares=float(self.total_squares[index]),
                least=None if np.isinf(self.least[index]) else float(self.least[index]),
                greatest=None if np.isinf(self.greatest[index]) else float(self.greatest[index]),
            )
            for index, name in enumerate(names)
        }


def histogram_edges() -> np.ndarray:
    """Return the lower edge of every bin of a histogram: less infinity, 0, then powers of two; [HISTOGRAM_BINS]."""
    return np.r_[-np.inf, 0.0, 2.0 ** np.arange(LEAST_POWER, GREATEST_POWER + 1)]


def _histograms(known: np.ndarray, exactly_zero: np.ndarray, num_zero: np.ndarray) -> np.ndarray:
    """Count the values float32 [M, T] of each track by sign and power of two, read from their bits.

    Args:
        known: no NaN; what is masked is 0.
        exactly_zero: zeros and masked values per track, [T].
        num_zero: zeros alone, [T].
    """
    num_tracks = known.shape[1]
    code = (np.ascontiguousarray(known).view(np.uint32) >> 23).astype(np.intp)  # sign, then the exponent plus 127
    code += 512 * np.arange(num_tracks)
    counts = np.bincount(code.ravel(), minlength=512 * num_tracks).reshape(num_tracks, 512)
    counts[:, 0] -= exactly_zero
    positive = counts[:, :256]
    first, last = 127 + LEAST_POWER, 127 + GREATEST_POWER
    return np.column_stack(
        [
            counts[:, 256:].sum(axis=1),
            num_zero,
            positive[:, : first + 1].sum(axis=1),
            positive[:, first + 1 : last],
            positive[:, last:].sum(axis=1),
        ]
    ).astype(np.int64)


def write_tracks(path: Path, tracks: Sequence[Track], tallies: Mapping[Split, Tally]) -> None:
    """Write tracks.parquet from each split's tally; equal tallies give equal bytes."""
    rows = []
    for split, tally in tallies.items():
        statistics = tally.statistics([track.name for track in tracks])
        for index, track in enumerate(tracks):
            one = statistics[track.name]
            rows.append(
                {"name": track.name, "file": track.file, "split": split}
                | dataclasses.asdict(one)
                | {"mean": one.mean, "variance": one.variance, "histogram": tally.histogram[index].tolist()}
            )
    with written_whole(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows), aside, compression="zstd")


def read_histograms(dataset_dir: Path, card: Card) -> dict[str, dict[str, np.ndarray]]:
    """Return the histogram of each split and track of a dataset, int64 [HISTOGRAM_BINS]."""
    table = pq.read_table(dataset_dir / TRACKS_NAME, columns=["name", "split", "histogram"])
    found: dict[str, dict[str, np.ndarray]] = {split: {} for split in card.counts}
    for row in table.to_pylist():
        found[row["split"]][row["name"]] = np.array(row["histogram"], np.int64)
    return found
