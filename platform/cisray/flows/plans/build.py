"""Plan a build: its shards as the source lays them out, some of them built and thrown away."""

import dataclasses
import random
import time
from collections.abc import Sequence
from functools import partial

from cisray.config import data_root
from cisray.datasets.loci.folds import Region
from cisray.datasets.source import PlannedShard
from cisray.flows.build import Builder, BuildJob, TableJob, open_source
from cisray.flows.plans.figures import Figure, JobPlan, Phase, PlanSpec, time_figure
from cisray.flows.plans.probe import Piece, Pieces, Probed, phases_of, probe_workers, processes_here
from cisray.flows.shards import file_identity

MOST_TIMED = 32
"""Shards that a process may build to be timed."""


def plan_build(job: BuildJob, spec: PlanSpec, regions: Sequence[Region] | None = None) -> JobPlan:
    """Return what a build will take; nothing is written.

    `regions` are as for `flows.build.build`.
    """
    started = time.monotonic()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))
    if isinstance(job, TableJob):  # the list of what is alike is written by a build alone
        job = dataclasses.replace(job, duplicates=dataclasses.replace(job.duplicates, list_path=None))
    source = open_source(job, regions)
    shards = source.plan().shards
    laid_out_s = time.monotonic() - started
    workers = min(spec.workers or job.cluster.expected_actors(len(shards)), len(shards))
    rows = sum(shard.num_rows for shard in shards)
    read_bytes = sum(path.stat().st_size for path in source.paths)
    figures = [
        Figure("shards", len(shards), "shards", "counted", "as the build lays them out"),
        Figure("rows", rows, "rows", "counted", "at most: windows without data are not counted out yet"),
        Figure("read", read_bytes, "bytes", "counted", f"{len(source.paths)} input files, once"),
        Figure("workers", workers, "processes", "counted", "at most one per shard"),
    ]
    if not spec.probe_s:
        arrays = rows * source.layout.row_bytes
        figures.append(Figure("written", arrays, "bytes", "counted", "arrays before packing"))
        return JobPlan("build", job.name, figures)
    probed = probe_workers(
        partial(Builder, job, [file_identity(path) for path in source.paths]),
        _shares(shards, processes_here(workers, len(shards), job.cluster)),
        spec=job.cluster,
        limit_s=spec.probe_s,
    )
    packed = round(rows * probed.row_bytes)
    figures.append(Figure("written", packed, "bytes", "measured", f"{probed.row_bytes:,.0f} bytes of a file per row"))
    return JobPlan("build", job.name, [*figures, *_costs(shards, probed, spec, workers, laid_out_s)])


def _shares(shards: Sequence[PlannedShard], processes: int) -> list[Pieces]:
    """Deal shards, drawn from all over the build, to processes."""
    drawn = random.Random(0).sample(list(shards), min(len(shards), processes * MOST_TIMED))
    pieces = [Piece(shard.values, shard.num_rows) for shard in drawn]
    return [Pieces(pieces[number::processes]) for number in range(processes)]


def _costs(
    shards: Sequence[PlannedShard], probed: Probed, spec: PlanSpec, workers: int, laid_out_s: float
) -> list[Figure]:
    """Return the figures of time and memory."""
    seconds = [shard.num_rows * probed.row_s / spec.speed for shard in shards]
    timed = f"{probed.rows:,} rows were built here by {probed.processes} processes side by side"
    phases = phases_of("build", Phase("to lay out the work", laid_out_s), probed, seconds, workers)
    return [
        Figure("FLOP", 0, "FLOP", "counted", "a build does no arithmetic worth counting"),
        Figure("work", sum(seconds), "seconds", "measured", f"of one worker; {timed}"),
        time_figure(phases, timed),
        Figure("memory", probed.peak_bytes, "bytes", "measured", "per worker, the most of those that were timed"),
    ]
