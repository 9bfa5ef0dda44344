"""How fast is a dataset built, against the raw decoding of its bigWigs, and do two workers do twice the work?

Windows of 131,072 bp in bins of 128 bp are made of simulated coverage: half of the tracks hold runs of reads' lengths,
half a value per base. In one process, each contender goes once over all bases of all tracks, in stretches of a shard's
length: `build_shard`, which also makes the table of rows and its statistics; pyBigWig and, where it is installed,
pybigtools, which make an array of bases and do nothing with it; and pyBigWig window by window, binned by NumPy. Then
`flows.build` makes the dataset with one worker and with two, and a process of its own says how much memory few and
many windows take.
"""

import multiprocessing
import resource
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import pyBigWig
from _genome import scratch_folder
from _table import (
    Marks,
    Options,
    finish,
    interleave,
    print_rates,
    print_table,
    rates_of,
    read_options,
    significant,
    steady_rate,
)

from cisray.config import check_settings
from cisray.datasets.from_tracks import TracksSource, TracksSpec
from cisray.datasets.schema import decode_examples
from cisray.flows.build import TracksJob, build
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.genome.reference import Reference

CONTIG = "chr1"
CONTIG_BP = 16 * 1_048_576
FILES = 8
FLOW_TRACKS = 64
"""Tracks of the whole build: every file several times, so that there is enough to do."""


def make_genome(folder: Path, bases: int) -> list[Path]:
    """Write random bases and coverage; return the coverage files."""
    random = np.random.default_rng(0)
    letters = np.array(list("ACGT"), dtype="S1")[random.integers(0, 4, bases)].tobytes()
    lines = b"\n".join(letters[start : start + 60] for start in range(0, bases, 60))
    (folder / "genome.fa").write_bytes(f">{CONTIG}\n".encode() + lines + b"\n")
    paths = []
    for number in range(FILES):
        path = folder / f"{number}.bw"
        file = pyBigWig.open(str(path), "w")
        file.addHeader([(CONTIG, bases)])
        if number % 2:
            depth = np.repeat(random.gamma(0.5, 4.0, bases // 64 + 1), 64)[:bases]
            values = np.round(depth + random.random(bases), 2)
            for start in range(0, bases, 1 << 20):
                file.addEntries(CONTIG, start, values=values[start : start + (1 << 20)], span=1, step=1)
        else:
            ends = np.cumsum(random.integers(1, 60, bases // 30))
            ends = ends[ends < bases]
            starts = np.r_[0, ends[:-1]]
            depth = random.poisson(random.gamma(0.5, 4.0, len(ends))).astype(np.float64)
            for at in range(0, len(starts), 1 << 20):
                part = slice(at, at + (1 << 20))
                file.addEntries([CONTIG] * len(starts[part]), starts[part], ends=ends[part], values=depth[part])
        file.close()
        paths.append(path)
    return paths


def settings(paths: list[Path], bases: int) -> dict[str, object]:
    """Return a job's settings for windows side by side: half of them train, a quarter each validates and tests."""
    return {
        "genome": {"name": "simulated", "fasta": "genome.fa"},
        "geometry": {"window_bp": 131_072, "bin_bp": 128},
        "folds": {"valid": [f"{CONTIG}:{bases // 2}-{3 * bases // 4}"], "test": [f"{CONTIG}:{3 * bases // 4}-{bases}"]},
        "tracks": [
            {"name": f"{number}", "file": path.name, "uncovered": "zero", "statistic": "sum"}
            for number, path in enumerate(paths)
        ],
    }


def open_source(folder: Path, paths: list[Path], bases: int) -> TracksSource:
    """Open the source of a job over the given tracks."""
    return TracksSource(check_settings(settings(paths, bases), TracksSpec, source="benchmark"), str(folder))


def by_shard(source: TracksSource) -> np.ndarray:
    """Build all shards; return their targets [B, N, T] in the order of the genome."""
    built = [source.build(shard.values) for shard in source.plan().shards]
    return np.concatenate([decode_examples(one.rows, source.layout).targets for one in built])


def by_values(paths: list[Path], bases: int) -> np.ndarray:
    """Read each window's bases with pyBigWig, and sum them up in bins; return targets [B, N, T]."""
    files = [pyBigWig.open(str(path)) for path in paths]
    targets = np.empty((bases // 131_072, 1024, len(files)), np.float32)
    for row in range(len(targets)):
        for track, file in enumerate(files):
            values = np.nan_to_num(file.values(CONTIG, row * 131_072, (row + 1) * 131_072, numpy=True))
            targets[row, :, track] = values.reshape(-1, 128).sum(axis=1, dtype=np.float64)
    return targets


def raw_pybigwig(paths: list[Path], bases: int) -> None:
    """Decode all bases with pyBigWig, in order, a shard's length at a time."""
    for path in paths:
        file = pyBigWig.open(str(path))
        for start in range(0, bases, 1 << 20):
            file.values(CONTIG, start, min(bases, start + (1 << 20)), numpy=True)
        file.close()


def raw_pybigtools(paths: list[Path], bases: int) -> None:
    """Decode all bases with pybigtools, likewise."""
    import pybigtools

    for path in paths:
        file = pybigtools.open(str(path))
        for start in range(0, bases, 1 << 20):
            file.values(CONTIG, start, min(bases, start + (1 << 20)), fillna=None)
        file.close()


def compare_readers(folder: Path, paths: list[Path], bases: int, options: Options) -> dict[str, float]:
    """Time all contenders over the same bases and tracks, and say how far apart the targets are."""
    source = open_source(folder, paths, bases)
    contenders: dict[str, Callable[[], object]] = {
        "build_shard": partial(by_shard, source),
        "raw decode, pyBigWig": partial(raw_pybigwig, paths, bases),
        "values per window, pyBigWig": partial(by_values, paths, bases),
    }
    if find_spec("pybigtools"):
        contenders["raw decode, pybigtools"] = partial(raw_pybigtools, paths, bases)
    seconds = interleave(contenders, repeats=options.repeats)
    amount = bases * len(paths) / 1e6
    rates = rates_of(seconds, dict.fromkeys(seconds, amount))
    title = f"{amount:,.0f} Mb of genome x tracks, one core"
    medians = print_rates(title, rates, unit="Mb", against="raw decode, pyBigWig")
    fastest = max(rate for name, rate in medians.items() if name.startswith("raw"))
    targets, plain = by_shard(source), by_values(paths, bases)
    difference = float(np.abs(targets - plain).max() / plain.max())
    print(f"  build_shard is {medians['build_shard'] / fastest:.2f} of the fastest raw decode;")
    print(f"  largest difference from values per window, of the largest target: {difference:.1e}")
    return {
        "mb_tracks_per_second_per_core": medians["build_shard"],
        "share_of_raw_decode": medians["build_shard"] / fastest,
        "ratio_to_values_per_window": medians["build_shard"] / medians["values per window, pyBigWig"],
        "largest_difference": difference,
    }


def time_flow(folder: Path, paths: list[Path], bases: int, options: Options) -> dict[str, float]:
    """Time whole builds by one worker and by two, in turn."""
    many = (paths * (FLOW_TRACKS // FILES))[:FLOW_TRACKS]
    amount = bases * len(many) / 1e6
    rates: dict[str, list[float]] = {"one worker": [], "two workers": []}
    with cluster(ClusterSpec()):
        for repeat in range(options.repeats):
            for workers, name in ((1, "one worker"), (2, "two workers")):
                out = folder / f"dataset{workers}.{repeat}"
                values = settings(many, bases) | {"name": "benchmark", "out": str(out), "data_dir": str(folder)}
                job = check_settings(values | {"cluster": {"actors": workers}}, TracksJob, source="benchmark")
                marks = Marks()
                build(job, report=marks)
                done = [(when, amount * told.done / told.total) for when, told in marks.told if told.done]
                rates[name].append(steady_rate(done, workers=workers))
    title = f"flows.build, {amount:,.0f} Mb of genome x tracks, start-up apart"
    medians = print_rates(title, rates, unit="Mb", against="one worker")
    return {
        "two_workers.ratio": medians["two workers"] / medians["one worker"],
        "flow.mb_tracks_per_second": medians["two workers"],
    }


def peak_memory(folder: Path, paths: list[Path], bases: int, shards: int) -> float:
    """Build so many shards in this process; return its peak memory in MB."""
    source = open_source(folder, paths, bases)
    for shard in source.plan().shards[:shards]:
        source.build(shard.values)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_memory(folder: Path, paths: list[Path], bases: int) -> dict[str, float]:
    """Say how much memory a process takes for few windows and for many."""
    Reference(folder / "genome.fa")  # prepared before, so that no process does
    peaks = {}
    for shards in (2, 14):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[shards] = pool.apply(peak_memory, (folder, paths, bases, shards))
    rows = [[f"{shards} shards", significant(peak)] for shards, peak in peaks.items()]
    print_table("peak memory of a process", ["", "MB"], rows)
    return {"memory.many_to_few_windows.ratio": peaks[14] / peaks[2], "memory.peak_mb": median(peaks.values())}


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    with scratch_folder() as folder:
        bases = max(4, round(CONTIG_BP * options.scale / (1 << 20))) << 20
        paths = make_genome(folder, bases)
        figures = compare_readers(folder, paths, bases, options)
        figures |= compare_memory(folder, paths, bases)
        figures |= time_flow(folder, paths, bases, options)
    finish("build", {f"build.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
