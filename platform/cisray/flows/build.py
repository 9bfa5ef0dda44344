"""Build a dataset from a genome and its tracks."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic.dataclasses import dataclass

from cisray import __version__
from cisray.config import STRICT, data_path, data_root
from cisray.datasets.folds import SPLITS, FoldSpec, Region, assign_regions
from cisray.datasets.from_tracks import TrackSource, build_shard
from cisray.datasets.schema import (
    CARD_NAME,
    SCHEMA_VERSION,
    Card,
    DataFile,
    Genome,
    Statistics,
    Track,
    card_to_dict,
    check_tracks,
    write_examples,
)
from cisray.datasets.tiling import Shard, Tiling, WindowSpec, tile
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.shards import Receipt, Task, file_identity, open_staging, run_tasks
from cisray.genome.contigs import map_contigs
from cisray.genome.reference import Reference
from cisray.genome.tracks import SignalFile
from cisray.geometry import Geometry
from cisray.progress import Report, silent


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenomeSpec:
    """Which genome."""

    name: str
    fasta: str
    """FASTA below data_dir, plain, gzip or bgzip."""
    ignore_contigs: tuple[str, ...] = ()
    """Contigs of tracks that the FASTA lacks and that are left out knowingly."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BuildJob:
    """What `cisray build` reads from a job file."""

    name: str
    out: str
    """The dataset's folder."""
    data_dir: str | None = None
    """The folder that holds the input files; default: the environment variable CISRAY_DATA."""
    genome: GenomeSpec
    geometry: Geometry
    folds: FoldSpec
    windows: WindowSpec = WindowSpec()
    tracks: tuple[Track, ...]
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        check_tracks(self.tracks)


class _Inputs:
    """The opened genome and tracks of a job, every contig accounted for."""

    def __init__(self, job: BuildJob) -> None:
        self.reference = Reference(data_path(job.genome.fasta, job.data_dir))
        lengths = self.reference.contig_lengths
        self.sources: list[TrackSource] = []
        self.paths = [self.reference.path]
        for track in job.tracks:
            path = data_path(track.file, job.data_dir)
            signal = SignalFile(path)
            names = map_contigs(signal.contig_lengths, lengths, source=str(path), ignore=job.genome.ignore_contigs)
            if names.unmatched:
                raise InputError(
                    f"{path}: holds contig {', '.join(names.unmatched[:5])} which {self.reference.path} lacks; "
                    "use the FASTA of the track's own assembly, or list the contig in genome.ignore_contigs"
                )
            self.paths.append(path)
            self.sources.append(TrackSource(track, signal, {ours: foreign for foreign, ours in names.names.items()}))


class _TrackWorker:
    """Builds shards in one process, with its own open files."""

    def __init__(self, job: BuildJob) -> None:
        self._job = job
        self._inputs = _Inputs(job)

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Build one shard."""
        job = self._job
        built = build_shard(
            Shard(**values),
            self._inputs.reference,
            self._inputs.sources,
            geometry=job.geometry,
            max_n_fraction=job.windows.max_n_fraction,
        )
        statistics = {name: dataclasses.asdict(one) for name, one in built.statistics.items()}
        return built.rows, {"statistics": statistics, "dropped": built.dropped}

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one shard's rows."""
        write_examples(table, path)


def build(job: BuildJob, *, report: Report = silent) -> Path:
    """Build the job's dataset, or go on with it, and return its folder.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others; no dataset is left behind.
    """
    out = Path(job.out).absolute()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))  # workers may have another environment
    inputs = _Inputs(job)
    regions = assign_regions(job.folds, inputs.reference.contig_lengths)
    tiling = tile(
        regions,
        inputs.reference.contig_lengths,
        geometry=job.geometry,
        spec=job.windows,
        guard_bp=max(track.smooth_bp // 2 for track in job.tracks),  # a running mean reaches across a border
    )
    plan = {
        "job": _job_record(job),
        "inputs": [file_identity(path) for path in inputs.paths],
        "cisray": __version__,
    }
    staging = open_staging(out, plan)
    if staging is None:
        return out
    tasks = [
        Task(shard.name, f"examples/split={shard.split}/{shard.name}.parquet", shard._asdict())
        for shard in tiling.shards
    ]
    with cluster(job.cluster):
        receipts = run_tasks(
            tasks,
            partial(_TrackWorker, job),
            staging=staging,
            cluster=job.cluster,
            stage="build",
            report=report,
        )
    ordered = [receipts[task.name] for task in tasks]
    for receipt in ordered:
        if receipt.rows == 0:
            (staging.path / receipt.file).unlink()
    card = _make_card(job, inputs, regions=regions, tiling=tiling, receipts=ordered)
    write_json(staging.path / CARD_NAME, card_to_dict(card))
    staging.finish()
    return out


def _job_record(job: BuildJob) -> dict[str, Any]:
    """Return what of a job says what the dataset is: neither where it goes nor who computes it."""
    record = dataclasses.asdict(job)
    for key in ("out", "data_dir", "cluster"):
        del record[key]
    return record


def _make_card(
    job: BuildJob, inputs: _Inputs, *, regions: list[Region], tiling: Tiling, receipts: list[Receipt]
) -> Card:
    reference, lengths = inputs.reference, inputs.reference.contig_lengths
    split_of = {shard.name: shard.split for shard in tiling.shards}
    counts = {split: sum(r.rows for r in receipts if split_of[r.name] == split) for split in SPLITS}
    for split, count in counts.items():
        if count == 0:
            raise InputError(
                f"{job.name}: every window of the {split} split was dropped; see folds and windows in the job file"
            )
    return Card(
        schema_version=SCHEMA_VERSION,
        name=job.name,
        cisray_version=__version__,
        genome=Genome(
            name=job.genome.name,
            fasta=reference.path.name,
            digest=reference.digest,
            contig_lengths=lengths,
            contig_digests=reference.contig_digests,
        ),
        geometry=job.geometry,
        tracks=job.tracks,
        contig_names={
            source.track.name: {foreign: ours for ours, foreign in source.foreign_names.items() if foreign != ours}
            for source in inputs.sources
        },
        absent_contigs={
            source.track.name: [contig for contig in lengths if contig not in source.foreign_names]
            for source in inputs.sources
        },
        folds=job.folds,
        regions={split: [str(r.interval) for r in regions if r.split == split] for split in SPLITS},
        counts=counts,
        dropped=_add_up([r.facts["dropped"] for r in receipts])
        | {f"{split} bases under no window": bases for split, bases in tiling.uncovered_bp.items()},
        statistics={
            split: _add_statistics([r for r in receipts if split_of[r.name] == split], [t.name for t in job.tracks])
            for split in SPLITS
        },
        files=tuple(DataFile(path=r.file, rows=r.rows, sha256=r.sha256) for r in receipts if r.rows),
        job=_job_record(job),
    )


def _add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    return {reason: sum(count[reason] for count in counts) for reason in counts[0]}


def _add_statistics(receipts: list[Receipt], tracks: list[str]) -> dict[str, Statistics]:
    total = {}
    for name in tracks:
        first, *others = [Statistics(**receipt.facts["statistics"][name]) for receipt in receipts]
        total[name] = sum(others, first)
    return total
