"""Build a dataset: lay out the work of any source, spread it over processes, and say in the card what came of it."""

import dataclasses
import resource
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic.dataclasses import dataclass

from cisray import __version__
from cisray.config import STRICT, data_root
from cisray.datasets.card import CARD_NAME, SCHEMA_VERSION, Card, DataFile, SourceFile, card_to_dict
from cisray.datasets.from_calico import CalicoSource, CalicoSpec
from cisray.datasets.from_peaks import PeaksSource, PeaksSpec
from cisray.datasets.from_table import TableSource, TableSpec
from cisray.datasets.from_tracks import TracksSource, TracksSpec
from cisray.datasets.loci.folds import SPLITS, Region, Split
from cisray.datasets.schema import write_examples
from cisray.datasets.source import Plan, Source
from cisray.datasets.statistics import TRACKS_NAME, Tally, write_tracks
from cisray.errors import InputError
from cisray.files import sampled_digest, write_json
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.publishing import open_output, published
from cisray.flows.shards import Receipt, Task, check_unchanged, file_identity, run_tasks, unchanged
from cisray.flows.visibility import check_visible
from cisray.progress import Report, silent
from cisray.remote import uri_of


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BuildSettings:
    """What every build has, whatever its source."""

    name: str
    out: str
    """The dataset's folder, or its URI."""
    data_dir: str | None = None
    """The folder that holds the input files, or its URI; default: the environment variable CISRAY_DATA."""
    cluster: ClusterSpec = ClusterSpec()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TracksJob(TracksSpec, BuildSettings):
    """Build from a genome and its tracks of signal."""

    source: Literal["tracks"] = "tracks"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PeaksJob(PeaksSpec, BuildSettings):
    """Build from a genome and files of peaks."""

    source: Literal["peaks"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableJob(TableSpec, BuildSettings):
    """Build from tables of measured sequences."""

    source: Literal["table"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalicoJob(CalicoSpec, BuildSettings):
    """Take over a dataset of Calico's, in TFRecords."""

    source: Literal["calico"]


BuildJob = TracksJob | PeaksJob | TableJob | CalicoJob


def open_source(job: BuildJob, regions: Sequence[Region] | None = None) -> Source:
    """Open the inputs of a job, every contig accounted for; `regions` are those of genomes divided together."""
    match job:
        case TracksJob():
            return TracksSource(job, job.data_dir, regions)
        case PeaksJob():
            return PeaksSource(job, job.data_dir)
        case TableJob():
            return TableSource(job, job.data_dir)
        case CalicoJob():
            return CalicoSource(job, job.data_dir)


class Builder:
    """Builds shards in one process, with its own open files."""

    def __init__(self, job: BuildJob, inputs: Sequence[Mapping[str, Any]]) -> None:
        self._source, self._inputs = open_source(job), inputs

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Build one shard; raise InputError where an input is not what `inputs`, as it was planned with, say."""
        check_unchanged(self._source.paths, self._inputs)
        built = self._source.build(values)
        check_unchanged(self._source.paths, self._inputs)
        return built.rows, {"tally": built.tally.to_dict(), "dropped": built.dropped}

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one shard's rows."""
        write_examples(table, path)


class Forecast(NamedTuple):
    """What a build would do, told before any of it is done but one shard, which is timed and thrown away."""

    rows: dict[Split, int]
    """At most so many; windows without data or with too many N are not counted out yet."""
    num_shards: int
    row_bytes: int
    """Of a row's arrays, not packed."""
    dropped: dict[str, int]
    process_bytes: int
    """Memory of a process that opened the inputs and built the timed shard."""
    fixed_s: float
    """Seconds that opening the inputs and laying out the work take, before any shard."""
    core_s: float
    """Seconds that all shards take on one core, going by the timed one."""
    workers: int
    """Processes, if this machine does it."""


def forecast(job: BuildJob, regions: Sequence[Region] | None = None) -> Forecast:
    """Lay out a build and time one of its shards, the one with the median number of rows; write nothing.

    `regions` are as for `build`.
    """
    opened = time.perf_counter()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))
    if isinstance(job, TableJob):  # the list of what is alike is written by a build alone
        job = dataclasses.replace(job, duplicates=dataclasses.replace(job.duplicates, list_path=None))
    source = open_source(job, regions)
    plan = source.plan()
    fixed_s = time.perf_counter() - opened
    timed = sorted(plan.shards, key=lambda shard: shard.num_rows)[len(plan.shards) // 2]
    started = time.perf_counter()
    source.build(timed.values)
    seconds = time.perf_counter() - started
    rows = {split: sum(shard.num_rows for shard in plan.shards if shard.split == split) for split in SPLITS}
    return Forecast(
        rows=rows,
        num_shards=len(plan.shards),
        row_bytes=source.layout.row_bytes,
        dropped=plan.dropped,
        process_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        fixed_s=fixed_s,
        core_s=seconds * sum(rows.values()) / max(1, timed.num_rows),
        workers=job.cluster.expected_actors(len(plan.shards)),
    )


def build(job: BuildJob, *, report: Report = silent, regions: Sequence[Region] | None = None) -> Path:
    """Build the job's dataset, or go on with it, and return its folder.

    Args:
        job: what to build.
        report: told after every shard.
        regions: of a genome that was divided together with others, in place of the job's folds.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others; no dataset is left behind.
    """
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))  # workers may have another environment
    source = open_source(job, regions)
    plan = source.plan()
    inputs = [file_identity(path) for path in source.paths]
    identity = {
        "job": _job_record(job),
        "regions": plan.regions,
        "inputs": inputs,
        "cisray": __version__,
    }
    staging = open_output(job.out, identity)
    if staging is None:
        return published(job.out)
    tasks = [
        Task(shard.name, f"examples/split={shard.split}/{shard.name}.parquet", shard.values) for shard in plan.shards
    ]
    with unchanged(source.paths, inputs), cluster(job.cluster):
        check_visible(source.paths, staging.path, need=job.cluster.need)
        receipts = run_tasks(
            tasks, partial(Builder, job, inputs), staging=staging, cluster=job.cluster, stage="build", report=report
        )
    made = _add_up(plan, receipts)
    for file in made.empty:
        (staging.path / file).unlink()
    card = _make_card(job, source, plan=plan, made=made)
    write_tracks(staging.path / TRACKS_NAME, source.tracks, made.tallies)
    write_json(staging.path / CARD_NAME, card_to_dict(card))
    staging.finish()
    return published(job.out)


def _job_record(job: BuildJob) -> dict[str, Any]:
    """Return what of a job says what the dataset is: neither where it goes nor who computes it."""
    record = dataclasses.asdict(job)
    for key in ("out", "data_dir", "cluster"):
        del record[key]
    return record


class _Made(NamedTuple):
    """What the receipts of a build add up to."""

    counts: dict[Split, int]
    dropped: dict[str, int]
    tallies: dict[Split, Tally]
    files: list[DataFile]
    empty: list[str]
    """Files of shards that ended up without a row."""


def _add_up(plan: Plan, receipts: Mapping[str, Receipt]) -> _Made:
    """Add up receipts one by one, in the order of the plan, so that equal plans give equal sums."""
    made = _Made(dict.fromkeys(SPLITS, 0), dict(plan.dropped), {}, [], [])
    for shard in plan.shards:
        receipt = receipts[shard.name]
        made.counts[shard.split] += receipt.rows
        for reason, count in receipt.facts["dropped"].items():
            made.dropped[reason] = made.dropped.get(reason, 0) + count
        tally = Tally.from_dict(receipt.facts["tally"])
        made.tallies[shard.split] = made.tallies[shard.split] + tally if shard.split in made.tallies else tally
        if receipt.rows:
            made.files.append(DataFile(path=receipt.file, rows=receipt.rows, sha256=receipt.sha256))
        else:
            made.empty.append(receipt.file)
    return made


def _make_card(job: BuildJob, source: Source, *, plan: Plan, made: _Made) -> Card:
    names = [track.name for track in source.tracks]
    for split, count in made.counts.items():
        if count == 0:
            raise InputError(
                f"{job.name}: every row of the {split} split was dropped; see folds and windows in the job file"
            )
    return Card(
        schema_version=SCHEMA_VERSION,
        name=job.name,
        cisray_version=__version__,
        kind=source.kind,
        genome=source.genome,
        geometry=source.layout.geometry,
        tracks=source.tracks,
        target_type=source.layout.target_type,
        inputs=source.layout.inputs,
        contig_names=source.contig_names,
        absent_contigs=source.absent_contigs,
        folds=getattr(job, "folds", None),
        regions=plan.regions,
        counts=made.counts,
        dropped=made.dropped,
        statistics={split: tally.statistics(names) for split, tally in made.tallies.items()},
        files=tuple(made.files),
        sources=tuple(_describe_file(path, job) for path in source.paths),
        facts=plan.facts,
        job=_job_record(job),
    )


def _describe_file(path: Path, job: BuildJob) -> SourceFile:
    root, place = data_root(job.data_dir), uri_of(path) or str(path)
    shown = place.removeprefix(f"{root}/") if place.startswith(f"{root}/") else path.name
    return SourceFile(path=shown, num_bytes=path.stat().st_size, sampled_digest=sampled_digest(path))
