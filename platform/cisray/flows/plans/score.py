"""Plan a scoring: its blocks as they will be cut, some rows of them scored and thrown away."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cisray.config import data_path, data_root
from cisray.errors import InputError
from cisray.flows.plans.figures import Figure, JobPlan, Phase, PlanSpec, time_figure
from cisray.flows.plans.probe import Piece, Pieces, Probed, phases_of, probe_workers, processes_here
from cisray.flows.score_job import ScoreJob
from cisray.flows.score_plan import name_contigs, plan_blocks, planned_path
from cisray.flows.score_worker import Scorer, ScorerPlan
from cisray.genome.reference import Reference
from cisray.genome.variant_selection import select_variants
from cisray.progress import silent
from cisray.remote import place_of_out

MOST_TIMED = 8
"""Blocks that a process may score to be timed."""


def plan_score(job: ScoreJob, spec: PlanSpec, bundle_dirs: Sequence[Path]) -> JobPlan:
    """Return what a scoring will take; its variants are read once, and nothing stays.

    Args:
        job: what would be scored.
        spec: by whom.
        bundle_dirs: the folders of the model's bundle and of those of an ensemble, in order.

    Raises:
        InputError: the variants are truncated, or none is to be scored.
    """
    started = time.monotonic()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))
    reference = Reference(data_path(job.fasta, job.data_dir))
    variants = select_variants(
        data_path(job.variants, job.data_dir),
        job.subset,
        contig_lengths=reference.contig_lengths,
        data_dir=job.data_dir,
    )
    with _shared_folder(job.out) as name:
        staging = Path(name)
        planned = plan_blocks(staging, variants, block_rows=job.block_rows, windows=job.windows, report=silent)
        laid_out_s = time.monotonic() - started
        paths = [planned_path(staging, number) for number in range(planned["blocks"])]
        if not paths:
            raise InputError(f"{variants.path}: no row of it is to be scored; see [subset] in the job file")
        blocks = [Piece({"planned": str(path)}, pq.read_metadata(path).num_rows) for path in paths]
        workers = min(spec.workers or job.cluster.expected_actors(len(blocks)), len(blocks))
        probed = None
        if spec.probe_s:
            plan = ScorerPlan(
                job=dataclasses.replace(job, engine=dataclasses.replace(job.engine, check_rows=0)),
                bundle_dirs=tuple(bundle_dirs),
                contig_names=name_contigs(variants, reference, planned["contigs"]),
                staging=staging,
            )
            shares = _shares(blocks, processes_here(workers, len(blocks), job.cluster), job.engine.batch_size)
            probed = probe_workers(partial(Scorer, plan), shares, spec=job.cluster, limit_s=spec.probe_s)
    sources = [variants.path, reference.path, *bundle_dirs]
    figures = _counts(planned, blocks, workers, sum(_size(path) for path in sources))
    if probed is not None:
        figures += _costs(job, blocks, probed, spec, workers, laid_out_s)
    return JobPlan("score", Path(job.variants).name, figures)


def _shared_folder(out: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes when it is left: of this machine, or for a cluster where the output would gather."""
    if not os.environ.get("RAY_ADDRESS"):
        return tempfile.TemporaryDirectory()
    gathers = place_of_out(out)
    there = next(folder for folder in gathers.parents if folder.exists())
    return tempfile.TemporaryDirectory(prefix=f".{gathers.name}.plan.", dir=there)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return (
        sum(each.stat().st_size for each in path.iterdir() if each.is_file()) if path.is_dir() else path.stat().st_size
    )


def _shares(blocks: Sequence[Piece], processes: int, batch_size: int) -> list[Pieces]:
    """Deal blocks from all over the file to processes; the first is cut to the rows of two batches."""
    step = max(1, len(blocks) // (processes * MOST_TIMED))
    spread = list(blocks)[::step]
    return [
        Pieces((spread[number::processes] * 2)[:MOST_TIMED], 2 * (batch_size - 1), cut_block)
        for number in range(processes)
    ]


def cut_block(block: Piece, rows: int, folder: Path) -> Piece:
    """Write at most the first rows of a planned block to a file of its own; those of one record stay together."""
    table = pq.ParquetFile(block.values["planned"]).read()
    records = table["record_index"].to_pylist()
    end = min(rows, len(records))
    while end < len(records) and records[end] == records[end - 1]:
        end += 1
    path = folder / f"first-{end}-{Path(block.values['planned']).name}"
    pq.write_table(table.slice(0, end), path)
    return Piece({"planned": str(path)}, end)


def _counts(planned: dict[str, Any], blocks: Sequence[Piece], workers: int, read_bytes: int) -> list[Figure]:
    left_out = sum(planned["left_out"].values())
    return [
        Figure("shards", len(blocks), "blocks", "counted", "as the scoring cuts them"),
        Figure("rows", planned["rows"], "variants", "counted", f"of the file; {left_out:,} are left out by the job"),
        Figure("read", read_bytes, "bytes", "counted", "variants, genome and models, once"),
        Figure("workers", workers, "processes", "counted", "at most one per block"),
    ]


def _costs(
    job: ScoreJob, blocks: Sequence[Piece], probed: Probed, spec: PlanSpec, workers: int, laid_out_s: float
) -> list[Figure]:
    """Return the figures of arithmetic, time and memory."""
    rows = sum(block.rows for block in blocks)
    seconds = [block.rows * probed.row_s / spec.speed for block in blocks]
    timed = f"{probed.rows:,} variants were scored here by {probed.processes} processes side by side"
    phases = phases_of("score", Phase("to read the variants", laid_out_s), probed, seconds, workers)
    exports = [name for name, wanted in dataclasses.asdict(job.export).items() if wanted]
    beside = f"; exports are not in it: {', '.join(exports)}" if exports else ""
    row = f"{probed.row_bytes:,.0f} bytes of a file per row"
    gflop = f"{probed.row_flop / 1e9:,.3g} GFLOP per variant"
    return [
        Figure("written", round(rows * probed.row_bytes), "bytes", "measured", f"{row}{beside}"),
        Figure("FLOP", round(rows * probed.row_flop), "FLOP", "measured", f"{gflop}, counted where it was done"),
        Figure("work", sum(seconds), "seconds", "measured", f"of one worker; {timed}"),
        time_figure(phases, f"{timed}{beside}"),
        Figure("memory", probed.peak_bytes, "bytes", "measured", "per worker, the most of those that were timed"),
    ]
