"""Does it pay to read each bigWig once per shard, and how fast is a whole build?

The same windows of a simulated genome of four tracks are made in three ways, in one process: by `build_shard`, and
by one `values` or one exact `stats` call of pyBigWig per window and track. The last two make nothing but arrays;
`build_shard` also makes the Arrow table and the statistics of its rows. Then `flows.build` makes a whole dataset.
"""

import os
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pyBigWig
from _genome import scratch_folder, simulate_genome, tiny_build_job
from _table import (
    Marks,
    Options,
    finish,
    interleave,
    print_rates,
    print_table,
    rates_of,
    read_options,
    seconds_of,
    significant,
    steady_rate,
)

from cisray.datasets.from_tracks import TrackSource, build_shard
from cisray.datasets.schema import Track, decode_rows
from cisray.datasets.tiling import Shard, WindowSpec
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.genome.reference import Reference
from cisray.genome.simulated_signal import TRACKS
from cisray.genome.tracks import SignalFile
from cisray.geometry import Geometry

CONTIG = "sim1"
CONTIG_BP = 4_000_000
HELD_OUT_BP = 500_000


class Case(NamedTuple):
    """Windows of one shape, `stride_bp` apart."""

    name: str
    title: str
    geometry: Geometry
    stride_bp: int
    stats_share: int
    """One window in so many is made with `stats`, which would take minutes."""


CASES = (
    Case("2kb", "2 kb windows, half overlapping", Geometry(window_bp=2048, bin_bp=16), 1024, 128),
    Case("131kb", "131 kb windows, side by side", Geometry(window_bp=131_072, bin_bp=128, crop_bins=64), 114_688, 4),
)


class Contender(NamedTuple):
    """Opened files and the windows to make of them."""

    reference: Reference
    paths: list[Path]
    geometry: Geometry
    stride_bp: int

    @property
    def starts(self) -> list[int]:
        """Starts of all windows."""
        return list(range(0, self.reference.contig_lengths[CONTIG] - self.geometry.window_bp + 1, self.stride_bp))

    def by_shard(self) -> np.ndarray:
        """Make all windows with `build_shard`, in shards of the default size; return targets [B, N, T]."""
        sources = [
            TrackSource(Track(name=path.stem, file=path.name, uncovered="zero"), SignalFile(path), {CONTIG: CONTIG})
            for path in self.paths
        ]
        starts, per_shard = self.starts, max(1, WindowSpec().shard_bp // self.stride_bp)
        parts = []
        for first in range(0, len(starts), per_shard):
            size = min(per_shard, len(starts) - first)
            shard = Shard(CONTIG, starts[first], self.stride_bp, size, "train", 0)
            rows = build_shard(shard, self.reference, sources, geometry=self.geometry, max_n_fraction=0.1).rows
            parts.append(decode_rows(rows["target"], "<f4", (self.geometry.num_bins, len(self.paths))))
        return np.concatenate(parts)

    def by_values(self) -> np.ndarray:
        """Read every window's bases of every track, and take the means of its bins."""
        return self._by_window(self.starts, self._mean_of_values)

    def by_stats(self, share: int) -> np.ndarray:
        """Let pyBigWig sum up the bins of one window in `share`, exactly."""
        return self._by_window(self.starts[::share], self._mean_of_stats)

    def _by_window(self, starts, read) -> np.ndarray:
        files = [pyBigWig.open(str(path)) for path in self.paths]
        targets = np.empty((len(starts), self.geometry.num_bins, len(files)), np.float32)
        codes = np.empty((len(starts), self.geometry.window_bp), np.uint8)
        for row, start in enumerate(starts):
            codes[row] = self.reference.codes(CONTIG, start, start + self.geometry.window_bp)
            first = start + self.geometry.crop_bp
            for track, file in enumerate(files):
                targets[row, :, track] = read(file, first, first + self.geometry.target_bp)
        return targets

    def _mean_of_values(self, file, first: int, last: int) -> np.ndarray:
        values = np.nan_to_num(file.values(CONTIG, first, last, numpy=True))
        return values.reshape(-1, self.geometry.bin_bp).mean(axis=1)

    def _mean_of_stats(self, file, first: int, last: int) -> np.ndarray:
        sums = file.stats(CONTIG, first, last, type="sum", nBins=self.geometry.num_bins, exact=True)
        return np.array([value or 0.0 for value in sums]) / self.geometry.bin_bp  # None where nothing is covered


def compare_readers(case: Case, contender: Contender, options: Options) -> dict[str, float]:
    """Time the three ways on one case, and say how far apart their targets are."""
    seconds = interleave(
        {
            "by shard": contender.by_shard,
            "values per window": contender.by_values,
            "stats per window": partial(contender.by_stats, case.stats_share),
        },
        repeats=options.repeats,
    )
    windows = len(contender.starts)
    amounts = dict.fromkeys(seconds, float(windows)) | {"stats per window": len(contender.starts[:: case.stats_share])}
    title = f"{case.title}: {windows} windows, {len(contender.paths)} tracks (stats: 1 window in {case.stats_share})"
    medians = print_rates(title, rates_of(seconds, amounts), unit="windows", against="values per window")
    targets = contender.by_shard()
    differences = {
        "values": float(np.abs(targets - contender.by_values()).max()),
        "stats": float(np.abs(targets[:: case.stats_share] - contender.by_stats(case.stats_share)).max()),
    }
    largest = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"  largest difference from by shard, of targets up to {targets.max():.0f}: {largest}")
    return {
        f"{case.name}.shard.windows_per_s": medians["by shard"],
        f"{case.name}.shard_to_values.ratio": medians["by shard"] / medians["values per window"],
        f"{case.name}.shard_to_stats.ratio": medians["by shard"] / medians["stats per window"],
        f"{case.name}.largest_difference": max(differences.values()),
    }


def time_flow(genome_dir: Path, folder: Path, options: Options) -> dict[str, float]:
    """Time `flows.build` over the whole genome, and Ray's start apart from it."""
    workers = os.cpu_count() or 1
    spec = ClusterSpec(actors=workers)
    lengths = Reference(genome_dir / "genome.fa").contig_lengths
    size = sum(lengths.values()) * len(TRACKS) / 1e6  # Mb of genome x tracks
    seconds, rates = [], []
    here = cluster(spec)
    start_s = seconds_of(here.__enter__)
    try:
        for repeat in range(options.repeats):
            windows = WindowSpec(stride_bp=512, shard_bp=250_000)
            job = tiny_build_job(genome_dir, folder / f"dataset{repeat}", cluster=spec, windows=windows)
            marks = Marks()
            seconds.append(seconds_of(partial(build, job, report=marks)))
            done = [(when, size * told.done / told.total) for when, told in marks.told if told.done]
            rates.append(steady_rate(done, workers=workers))
    finally:
        here.__exit__(None, None, None)
    wall, rate = median(seconds), median(rates)
    figures = {
        "flow.steady.mb_tracks_per_s": rate,
        "flow.whole.mb_tracks_per_s": size / wall,
        "flow.fixed_s": wall - size / rate,
        "flow.ray_start_s": start_s,
    }
    rows = [
        ["steady, Mb of genome x tracks per s", significant(rate)],
        ["whole flow, Mb of genome x tracks per s", significant(size / wall)],
        ["whole flow, s", significant(wall)],
        ["of which fixed: worker processes, genome index, card, s", significant(figures["flow.fixed_s"])],
        ["Ray's own start beforehand, s", significant(start_s)],
    ]
    title = f"flows.build, tiny dataset, {size:.0f} Mb of genome x tracks, {workers} processes; median of {len(rates)}"
    print_table(title, ["", ""], rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=3)
    with scratch_folder() as folder:
        bases = options.scaled(CONTIG_BP, at_least=HELD_OUT_BP)
        genome_dir = simulate_genome(folder / "genome", train_bp=bases, held_out_bp=HELD_OUT_BP)
        reference = Reference(genome_dir / "genome.fa")
        paths = [genome_dir / "tracks" / f"{track}.bw" for track in TRACKS]
        figures: dict[str, float] = {}
        for case in CASES:
            figures |= compare_readers(case, Contender(reference, paths, case.geometry, case.stride_bp), options)
        figures |= time_flow(genome_dir, folder, options)
    finish("build", {f"build.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
