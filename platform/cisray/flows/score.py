"""Score every variant of a file with a bundle: rows in = rows out, block by block, restartable."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic.dataclasses import dataclass

from cisray import __version__
from cisray.bundle import Predictor
from cisray.config import STRICT, data_path, data_root
from cisray.errors import InputError
from cisray.files import file_digest, read_json, write_json, written_whole
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.shards import PLANNED, Receipt, Staging, Task, file_identity, open_staging, run_tasks
from cisray.genome.contigs import map_contigs
from cisray.genome.reference import Reference, check_same_genome
from cisray.genome.variants import Variant, read_variants, variant_contigs
from cisray.progress import Progress, Report, silent
from cisray.scoring.alleles import AllelePair, Status, classify, window_pair
from cisray.scoring.effects import resolve_scores
from cisray.scoring.engine import score_pairs
from cisray.scoring.export import write_tsv, write_vcf
from cisray.scoring.schema import (
    BLOCKS_DIR,
    Block,
    GenomeSource,
    Manifest,
    ModelSource,
    VariantSource,
    build_table,
    write_manifest,
    write_rows,
)

# Forwards whose windows are held at once.
FORWARDS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreJob:
    """What `cisray score` reads from a job file."""

    variants: str
    """VCF, VCF.gz or BCF below data_dir."""
    fasta: str
    """The genome that the variants' positions refer to, below data_dir; it must be the model's."""
    model: str
    """A bundle's folder, or a registered model: models:/NAME@champion, models:/NAME/3."""
    out: str
    data_dir: str | None = None
    scores: tuple[str, ...] = ("delta_sum", "log2fc", "l2_log2")
    strands: Literal["forward", "both"] = "both"
    batch_size: int = 64
    """Windows per forward."""
    block_rows: int = 1024
    """Rows of one block, about: a record is never cut."""
    max_allele_bp: int = 100
    """Longer alleles are not scored but get the status TOO_LONG."""
    vcf: bool = False
    """Write scores.vcf.gz too."""
    tsv: bool = False
    """Write scores.tsv too."""
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        resolve_scores(self.scores)
        if self.batch_size < 2 or self.block_rows < 1 or self.max_allele_bp < 1:
            raise InputError(
                f"batch_size={self.batch_size}, block_rows={self.block_rows}, max_allele_bp={self.max_allele_bp}; "
                "wanted at least 2, 1 and 1"
            )


class _Scorer:
    """Scores planned blocks in one process, with its own model and genome."""

    def __init__(self, job: ScoreJob, bundle_dir: Path, contig_names: dict[str, str]) -> None:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        torch.backends.cudnn.allow_tf32 = False  # full float32: differences of near-equal numbers are the product
        self._job = job
        self._predictor = Predictor(bundle_dir, device="cuda" if job.cluster.gpus_per_actor else "cpu")
        self._reference = Reference(data_path(job.fasta, job.data_dir))
        self._contig_names = contig_names

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Score one block; the facts are its counts and its noise floor."""
        variants = [Variant(**row) for row in pq.ParquetFile(values["planned"]).read().to_pylist()]
        contigs = [self._contig_names.get(variant.contig) for variant in variants]
        statuses = [
            classify(variant, contig, self._reference, max_allele_bp=self._job.max_allele_bp)
            for variant, contig in zip(variants, contigs, strict=True)
        ]
        window_bp = self._predictor.card.geometry.window_bp
        pairs = (
            window_pair(variant, contig, self._reference, window_bp=window_bp)
            for variant, contig, status in zip(variants, contigs, statuses, strict=True)
            if status is Status.OK and contig is not None
        )
        flags, starts, scored, noise_floor = self._score(pairs)
        table = build_table(
            variants,
            statuses,
            flags=flags,
            window_starts=starts,
            values=scored,
            tracks=self._predictor.card.track_names,
        )
        facts = {
            "counts": dict(Counter(status.value for status in statuses)),
            "noise_floor": noise_floor,
            "records": len({variant.record_index for variant in variants}),
            "first": variants[0].record_index,
            "last": variants[-1].record_index,
        }
        return table, facts

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one block's rows."""
        write_rows(table, path)

    def _score(
        self, pairs: Iterator[AllelePair]
    ) -> tuple[list[Any], list[int], dict[str, np.ndarray], dict[str, float]]:
        """Score window pairs: flags and window starts [S], values per score [S, T], noise floor per score."""
        job, predictor = self._job, self._predictor
        scores = resolve_scores(job.scores)
        flags, starts = [], []
        values: dict[str, list[np.ndarray]] = {
            name: [np.empty((0, len(predictor.card.tracks)), np.float32)] for name in scores
        }
        noise_floor = dict.fromkeys(scores, 0.0)
        per_chunk = FORWARDS_AT_ONCE * (
            job.batch_size - 1
        )  # a whole number of forwards, so that none is padded but the last
        for _, chunk in groupby(enumerate(pairs), key=lambda numbered: numbered[0] // per_chunk):
            part = [pair for _, pair in chunk]
            flags += [pair.flags for pair in part]
            starts += [pair.window_start for pair in part]
            result = score_pairs(
                predictor,
                np.stack([pair.reference_codes for pair in part]),
                np.stack([pair.alternate_codes for pair in part]),
                scores=scores,
                strands=job.strands,
                batch_size=job.batch_size,
                swap=predictor.swap.numpy(),
            )
            for name in scores:
                values[name].append(result.values[name])
                noise_floor[name] = max(noise_floor[name], result.noise_floor[name])
        return flags, starts, {name: np.concatenate(parts) for name, parts in values.items()}, noise_floor


def score(job: ScoreJob, *, bundle_dir: Path, model: ModelSource, report: Report = silent) -> Path:
    """Score the job's variants, or go on with it, and return the score table's folder.

    Args:
        job: what to score.
        bundle_dir: the model's bundle on this machine.
        model: how the manifest names it.
        report: told after every block.

    Raises:
        InputError: the variants are truncated, the genome is not the model's, or an allele cannot fit the window.
    """
    out = Path(job.out).absolute()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))  # workers may have another environment
    predictor = Predictor(bundle_dir)
    variants_path = data_path(job.variants, job.data_dir)
    reference = Reference(data_path(job.fasta, job.data_dir))
    genome = predictor.card.genome_for("scoring variants of a genome")
    check_same_genome(
        reference, genome.contig_lengths, genome.contig_digests, genome.digest, what=f"the model {bundle_dir}"
    )
    window_bp = predictor.card.geometry.window_bp
    if job.max_allele_bp > window_bp - window_bp // 2:
        raise InputError(
            f"max_allele_bp={job.max_allele_bp} is more than half of the model's window of {window_bp} bp; "
            f"set it to {window_bp - window_bp // 2} or less"
        )
    record = dataclasses.asdict(job)
    for key in ("out", "data_dir", "cluster", "model", "vcf", "tsv"):  # what says nothing of the scores themselves
        del record[key]
    plan = {"job": record, "model": predictor.digest, "genome": reference.digest, "cisray": __version__}
    staging = open_staging(out, plan | {"variants": file_identity(variants_path)})
    if staging is None:
        _export(job, out, variants_path)
        return out
    planned = _plan_blocks(staging, variants_path, block_rows=job.block_rows, report=report)
    contig_names = _contig_names(variants_path, planned["contigs"], reference)
    tasks = [
        Task(
            f"{number:07d}",
            f"{BLOCKS_DIR}/{number:07d}.parquet",
            {"planned": str(staging.path / PLANNED / f"{number:07d}.parquet")},
        )
        for number in range(planned["blocks"])
    ]
    with cluster(job.cluster):
        receipts = run_tasks(
            tasks,
            partial(_Scorer, job, bundle_dir, contig_names),
            staging=staging,
            cluster=job.cluster,
            stage="score",
            report=report,
        )
    ordered = [receipts[task.name] for task in tasks]
    write_manifest(
        staging.path,
        _make_manifest(
            job,
            ordered,
            predictor=predictor,
            model=model,
            genome=GenomeSource(fasta=reference.path.name, digest=reference.digest, contig_names=contig_names),
            variants=VariantSource(file=variants_path.name, digest=planned["digest"]),
        ),
    )
    staging.finish()
    _export(job, out, variants_path)
    return out


def _plan_blocks(staging: Staging, variants_path: Path, *, block_rows: int, report: Report) -> dict[str, Any]:
    """Read the variants once, in a stream, into one file per block; return blocks, rows, contigs and the digest."""
    summary_path = staging.path / PLANNED / "summary.json"
    if summary_path.exists():
        return read_json(summary_path, what="score plan")
    contigs: dict[str, None] = {}
    block: list[Variant] = []
    num_blocks = num_rows = 0
    for _, record in groupby(read_variants(variants_path), key=lambda variant: variant.record_index):
        alleles = list(record)
        if block and len(block) + len(alleles) > block_rows:
            _write_planned(staging, num_blocks, block)
            num_blocks, block = num_blocks + 1, []
            report(Progress("read variants", num_rows, 0, "rows"))
        block += alleles
        num_rows += len(alleles)
        contigs[alleles[0].contig] = None
    if block:
        _write_planned(staging, num_blocks, block)
        num_blocks += 1
    summary = {
        "blocks": num_blocks,
        "rows": num_rows,
        "contigs": list(contigs),
        "digest": file_digest(variants_path),
    }
    write_json(summary_path, summary)
    return summary


def _write_planned(staging: Staging, number: int, block: list[Variant]) -> None:
    with written_whole(staging.path / PLANNED / f"{number:07d}.parquet") as aside:
        pq.write_table(pa.Table.from_pylist([variant._asdict() for variant in block]), aside)


def _contig_names(variants_path: Path, seen: list[str], reference: Reference) -> dict[str, str]:
    """Map the contigs that occur in the variants to the genome's; those without a counterpart are left out."""
    lengths = variant_contigs(variants_path)
    occurring = {name: lengths.get(name) for name in seen}
    return map_contigs(occurring, reference.contig_lengths, source=str(variants_path)).names


def _make_manifest(
    job: ScoreJob,
    receipts: list[Receipt],
    *,
    predictor: Predictor,
    model: ModelSource,
    genome: GenomeSource,
    variants: VariantSource,
) -> Manifest:
    counts: Counter[str] = Counter()
    for receipt in receipts:
        counts.update(receipt.facts["counts"])
    scores = resolve_scores(job.scores)
    return Manifest(
        cisray_version=__version__,
        model=model,
        genome=genome,
        variants=variants,
        tracks=tuple(predictor.card.track_names),
        scores={name: one.formula for name, one in scores.items()},
        window_bp=predictor.card.geometry.window_bp,
        max_allele_bp=job.max_allele_bp,
        strands=job.strands,
        precision="float32",
        counts={Status(name): counts[name] for name in sorted(counts)},
        rows=sum(receipt.rows for receipt in receipts),
        records=sum(receipt.facts["records"] for receipt in receipts),
        noise_floor={name: max((r.facts["noise_floor"][name] for r in receipts), default=0.0) for name in scores},
        blocks=tuple(
            Block(
                name=Path(receipt.file).name,
                rows=receipt.rows,
                sha256=receipt.sha256,
                first=receipt.facts["first"],
                last=receipt.facts["last"],
            )
            for receipt in receipts
        ),
    )


def _export(job: ScoreJob, scores_dir: Path, variants_path: Path) -> None:
    """Write the other formats that the job asks for and that are not there yet."""
    vcf_path, tsv_path = scores_dir / "scores.vcf.gz", scores_dir / "scores.tsv"
    if job.vcf and not vcf_path.exists():
        write_vcf(scores_dir, variants_path, vcf_path)
    if job.tsv and not tsv_path.exists():
        write_tsv(scores_dir, tsv_path)
