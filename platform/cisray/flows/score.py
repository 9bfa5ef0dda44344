"""Score every variant of a file with a bundle: rows in = rows out, block by block, restartable."""

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cisray import __version__
from cisray.bundle import Predictor
from cisray.config import data_path, data_root
from cisray.errors import InputError
from cisray.files import file_digest
from cisray.flows.cluster import cluster
from cisray.flows.publishing import open_output, published
from cisray.flows.score_export import export
from cisray.flows.score_job import ScoreJob
from cisray.flows.score_plan import name_contigs, plan_blocks, planned_path
from cisray.flows.score_worker import (
    Scorer,
    ScorerPlan,
    gene_score_names,
    null_names,
    placing_of,
    score_names,
    tolerance_of,
)
from cisray.flows.shards import RECEIPTS, Receipts, Task, file_identity, run_tasks, unchanged
from cisray.flows.visibility import check_visible
from cisray.genome.reference import Reference, check_same_genome
from cisray.genome.variant_selection import ALL_ROWS, SelectedVariants, select_variants
from cisray.geometry import Geometry
from cisray.progress import Progress, Report, silent
from cisray.remote import place_of_out
from cisray.scoring.alleles import Status
from cisray.scoring.calibration import Settings, calibration_paths, read_calibration
from cisray.scoring.effects import SCORES, check_scores, make_measure, resolve_scores
from cisray.scoring.forecast import describe_size, describe_work
from cisray.scoring.manifest import (
    SCHEMA_VERSION,
    Block,
    CalibrationSource,
    GenomeSource,
    Guard,
    Manifest,
    ModelSource,
    Selection,
    VariantSource,
    write_manifest,
)
from cisray.scoring.masks import make_masks, parse_mask
from cisray.scoring.rows import table_schema
from cisray.scoring.run_record import RunRecord, library_versions, machine_name, write_run
from cisray.scoring.schema import BLOCKS_DIR


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """A checked job, and what it is made with."""

    job: ScoreJob
    predictors: tuple[Predictor, ...]
    models: tuple[ModelSource, ...]
    reference: Reference
    variants: SelectedVariants
    scores: list[str]
    gene_scores: list[str]

    @property
    def first(self) -> Predictor:
        """The model, or the first of an ensemble."""
        return self.predictors[0]

    @property
    def tracks(self) -> list[str]:
        """Names of the tracks that are predicted."""
        return list(self.job.tracks) or self.first.card.track_names


def score(job: ScoreJob, *, models: Mapping[Path, ModelSource], report: Report = silent) -> Path:
    """Score the job's variants, or go on with it, and return the score table's folder.

    Args:
        job: what to score.
        models: the folders of the model's bundle and of those of an ensemble, in order, and how the manifest names
            them.
        report: told after every block.

    Raises:
        InputError: the variants are truncated, the genome is not the model's, or a setting does not fit the model.
    """
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))  # workers may have another environment
    run = _check(job, models)
    staging = open_output(job.out, _plan(run))
    if staging is None:
        export(job, place_of_out(job.out))
        return published(job.out)
    started = time.monotonic()
    planned = plan_blocks(staging.path, run.variants, block_rows=job.block_rows, windows=job.windows, report=report)
    report(Progress("read variants", planned["rows"], planned["rows"], "rows", note=_forecast(run, planned["rows"])))
    contig_names = name_contigs(run.variants, run.reference, planned["contigs"])
    tasks = [
        Task(
            f"{number:07d}", f"{BLOCKS_DIR}/{number:07d}.parquet", {"planned": str(planned_path(staging.path, number))}
        )
        for number in range(planned["blocks"])
    ]
    files = (job.fasta, *_genome_files(job).values())
    plan = ScorerPlan(
        job=job,
        bundle_dirs=tuple(models),
        contig_names=contig_names,
        staging=staging.path,
        files=files,
        identities=tuple(file_identity(data_path(name, job.data_dir)) for name in files),
    )
    earlier = {task.name for task in tasks if (staging.path / RECEIPTS / f"{task.name}.json").exists()}
    with unchanged([data_path(name, job.data_dir) for name in files], plan.identities), cluster(job.cluster):
        check_visible(_read_by_workers(run, models), staging.path, need=job.cluster.need)
        receipts = run_tasks(
            tasks, partial(Scorer, plan), staging=staging, cluster=job.cluster, stage="score", report=report
        )
    write_manifest(staging.path, _make_manifest(run, receipts, planned=planned, contig_names=contig_names))
    write_run(staging.path, _run_record(job, receipts, earlier=earlier, seconds=time.monotonic() - started))
    staging.finish()
    export(job, staging.out)
    return published(job.out)


def _check(job: ScoreJob, models: Mapping[Path, ModelSource]) -> _Run:
    """Open everything that the job names, and raise InputError where it does not fit together."""
    reference = Reference(data_path(job.fasta, job.data_dir))
    predictors = _open_models(job, models, reference)
    card = predictors[0].card
    for name in job.tracks:
        if name not in card.track_names:
            raise InputError(f"tracks: the model has no track {name!r}; it has {', '.join(card.track_names[:20])}")
    names, gene_names = score_names(job, predictors[0]), gene_score_names(job)
    for predictor in predictors:
        check_scores(resolve_scores(names), kind=predictor.card.kind, link=predictor.link, of_genes=False)
        if gene_names:
            check_scores(resolve_scores(gene_names), kind=predictor.card.kind, link=predictor.link, of_genes=True)
    for name in names:
        if name in gene_names:
            raise InputError(f"genes: {name} is among the scores of rows, too; name it once, or gene_log2fc for genes")
    table_schema(names, job.tracks or card.track_names, storage=job.storage)  # tells which tracks cannot be stored
    one_way = [name for name in [*names, *gene_names] if SCORES[name].one_way]
    if job.ref_mismatch == "flip" and one_way:
        raise InputError(
            f"ref_mismatch=flip exchanges the alleles, and {one_way[0]} of exchanged alleles is another number; "
            "leave one out"
        )
    geometry = card.geometry
    placing_of(job, geometry.window_bp)
    job.engine.align_for(geometry)
    if job.windows.policy == "grid" and job.windows.grid_bp > geometry.target_bp:
        raise InputError(
            f"windows: grid_bp={job.windows.grid_bp}, but the model predicts {geometry.target_bp} bp of a window; "
            "wanted a finer grid, so that each variant lies where something is predicted"
        )
    _check_center(job, geometry)
    variants = select_variants(
        data_path(job.variants, job.data_dir),
        job.subset,
        contig_lengths=reference.contig_lengths,
        data_dir=job.data_dir,
    )
    run = _Run(
        job=job,
        predictors=predictors,
        models=tuple(models.values()),
        reference=reference,
        variants=variants,
        scores=names,
        gene_scores=gene_names,
    )
    if job.calibration is not None:
        read_calibration(run.first.path, job.calibration).check(_settings(run))
    return run


def _head_of(predictor: Predictor) -> str | None:
    """Return which of several heads predicts; an only one need not be named, and is the same one with a name."""
    return predictor.head if len(predictor.cards) > 1 else None


def _check_center(job: ScoreJob, geometry: Geometry) -> None:
    """Raise InputError where the bins around a variant would be cut, for one here and not for another."""
    mask = parse_mask(job.mask)
    if mask.kind != "center":
        return
    bins = -(-int(mask.argument) // geometry.bin_bp)
    is_grid = job.windows.policy == "grid"
    # from a window's middle; an indel's first changed base is the one behind its place
    for position in (-(job.windows.grid_bp // 2) if is_grid else 0, job.windows.most_right_bp + 1):
        kept = make_masks(mask, window_start=-(geometry.window_bp // 2), position=position, geometry=geometry)
        if kept.sum() < bins:
            of = f" around variants anywhere in {job.windows.grid_bp} bp of a grid" if is_grid else ""
            raise InputError(
                f"mask: {mask} takes {bins * geometry.bin_bp} bp{of}, and the model predicts {geometry.target_bp} bp "
                f"of a window; wanted a narrower mask{', or a finer windows.grid_bp' if is_grid else ''}"
            )


def _forecast(run: _Run, rows: int) -> str:
    """Say how large the table will be, and how many times over its rows are scored."""
    job, num_scores = run.job, len(run.scores)
    beside = 2 * len(null_names(job, run.scores)) + (num_scores if job.calibration is not None else 0)
    size = describe_size(rows, len(run.tracks), num_scores, job.storage, beside=beside)
    work = describe_work(rows, job.null, job.windows)
    return f"{size}; {work}" if work else size


def _open_models(job: ScoreJob, models: Mapping[Path, ModelSource], reference: Reference) -> tuple[Predictor, ...]:
    """Load the model, or those of an ensemble; raise InputError where they are not of the genome, or not alike."""
    if len(models) != 1 + len(job.ensemble):
        raise InputError(
            f"ensemble: {1 + len(job.ensemble)} models are named, and {len(models)} of them differ; name each once"
        )
    predictors = tuple(Predictor(path, head=job.head) for path in models)
    first = predictors[0].card
    for path, predictor in zip(models, predictors, strict=True):
        card = predictor.card
        genome = card.genome_for("scoring variants of a genome")
        check_same_genome(
            reference, genome.contig_lengths, genome.contig_digests, genome.digest, what=f"the model {path}"
        )
        if card.track_names != first.track_names:
            raise InputError(f"ensemble: {path} has other tracks than the model; wanted models of the same tracks")
        shapes = [(one.window_bp, one.bin_bp, one.crop_bins) for one in (card.geometry, first.geometry)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"ensemble: {path} has (window_bp, bin_bp, crop_bins) of {shapes[0]}, and the model of {shapes[1]}; "
                "wanted models of one geometry"
            )
        if predictor.learned_strands == "forward" and job.engine.strands == "both":
            raise InputError(
                f"{path}: learned to read the forward strand only (training.reverse_complement = false), and the job "
                'averages both; set engine.strands = "forward"'
            )
        predictor.check()
    return predictors


def _settings(run: _Run) -> Settings:
    """Return what the job's scores are made with, as `calibration.settings_of` has it from their table."""
    job = run.job
    mask = str(parse_mask(job.mask))
    return Settings(
        model_digest=run.models[0].digest,
        head=_head_of(run.first),
        formulas=make_measure(run.scores).formulas,
        masks={} if mask == "crop" else dict.fromkeys(run.scores, mask),
        window_policy=str(job.windows),
        indel_align=job.engine.align_for(run.first.card.geometry),
        strands=job.engine.strands,
        shifts=job.engine.shifts,
    )


def _plan(run: _Run) -> dict[str, Any]:
    """Return what makes two runs the same run: all but what says nothing of the scores themselves."""
    job = run.job
    record = dataclasses.asdict(job)
    for key in ("out", "data_dir", "cluster", "model", "ensemble", "export"):
        del record[key]
    plan = {
        "job": record,
        "models": [source.digest for source in run.models],
        "genome": run.reference.digest,
        "variants": file_identity(run.variants.path),
        "cisray": __version__,
        "table": SCHEMA_VERSION,
    }
    files = _genome_files(job) | ({"regions": job.subset.regions_bed} if job.subset.regions_bed is not None else {})
    for name, file in files.items():
        plan[name] = file_identity(data_path(file, job.data_dir))
    if job.calibration is not None:
        plan["calibration"] = file_digest(calibration_paths(run.first.path, job.calibration)[0])
    return plan


def _genome_files(job: ScoreJob) -> dict[str, str]:
    """Return the files beside the genome that workers read, by role."""
    mask = parse_mask(job.mask)
    files = {"annotation": job.genes.annotation, "mask": mask.argument if mask.kind == "bed" else None}
    return {name: file for name, file in files.items() if file is not None}


def _read_by_workers(run: _Run, models: Mapping[Path, ModelSource]) -> list[Path]:
    files = (data_path(file, run.job.data_dir) for file in _genome_files(run.job).values())
    return [run.reference.path, *models, *files]


def _make_manifest(
    run: _Run, receipts: Receipts, *, planned: Mapping[str, Any], contig_names: dict[str, str]
) -> Manifest:
    job, card = run.job, run.first.card
    counts: Counter[str] = Counter()
    underflows: Counter[str] = Counter()
    floors: dict[str, float] = dict.fromkeys([*run.scores, *run.gene_scores], 0.0)
    blocks, genes = [], []
    records = recomputed = 0
    difference = 0.0
    for receipt in receipts.values():
        facts = receipt.facts
        counts.update(facts["counts"])
        underflows.update(facts["underflows"])
        floors = {name: max(floor, facts["noise_floor"].get(name, 0.0)) for name, floor in floors.items()}
        records += facts["records"]
        recomputed += facts["recomputed"]
        difference = max(difference, facts["difference"])
        name = Path(receipt.file).name
        blocks.append(
            Block(name=name, rows=receipt.rows, sha256=receipt.sha256, first=facts["first"], last=facts["last"])
        )
        if "genes" in facts:
            genes.append(Block(**facts["genes"]))
    formulas = make_measure([*run.scores, *run.gene_scores]).formulas
    mask = str(parse_mask(job.mask))
    manifest = Manifest(
        cisray_version=__version__,
        model=run.models[0],
        head=_head_of(run.first),
        ensemble=run.models if len(run.models) > 1 else (),
        genome=GenomeSource(fasta=run.reference.path.name, digest=run.reference.digest, contig_names=contig_names),
        variants=VariantSource(file=run.variants.path.name, digest=planned["digest"]),
        selection=_selection(job, planned) if job.subset != ALL_ROWS else None,
        tracks=tuple(run.tracks),
        storage=job.storage,
        scores={name: formulas[name] for name in run.scores},
        gene_scores={name: formulas[name] for name in run.gene_scores},
        masks=({} if mask == "crop" else dict.fromkeys(run.scores, mask))
        | dict.fromkeys(run.gene_scores, job.genes.mask),
        nulls=tuple(null_names(job, run.scores)),
        null=job.null if job.null.number else None,
        window_bp=card.geometry.window_bp,
        window_policy=str(job.windows),
        indel_align=job.engine.align_for(card.geometry),
        max_allele_bp=job.max_allele_bp,
        ref_mismatch=job.ref_mismatch,
        shifts=job.engine.shifts,
        strands=job.engine.strands,
        precision=job.engine.precision,
        counts={Status(name): counts[name] for name in sorted(counts)},
        rows=planned["rows"],
        records=records,
        noise_floor={name: floor if SCORES[name].compares else None for name, floor in floors.items()},
        guard=Guard(recomputed=recomputed, largest_difference=difference, tolerance=tolerance_of(job)),
        underflows=dict(underflows),
        blocks=tuple(blocks),
        genes=tuple(genes),
    )
    return _with_calibration(run, manifest)


def _selection(job: ScoreJob, planned: Mapping[str, Any]) -> Selection:
    subset = job.subset
    regions = (*subset.regions, *([] if subset.regions_bed is None else [subset.regions_bed]))
    samples = () if subset.sample is None else (subset.sample,)
    return Selection(
        regions=regions,
        samples=samples,
        left_out=sum(planned["left_out"].values()),
        file_rows=planned["file_rows"],
    )


def _with_calibration(run: _Run, manifest: Manifest) -> Manifest:
    """Say in the manifest what quantiles are ranks among."""
    name = run.job.calibration
    if name is None:
        return manifest
    path, _ = calibration_paths(run.first.path, name)
    source = CalibrationSource(file=path.name, digest=file_digest(path))
    return dataclasses.replace(manifest, quantiles=tuple(run.scores), calibration=source)


def _run_record(job: ScoreJob, receipts: Receipts, *, earlier: Collection[str], seconds: float) -> RunRecord:
    """Say what the run took; the rows of blocks that an earlier one had done count in no rate."""
    engine_s = total_s = 0.0
    rows = 0
    for receipt in receipts.values():
        engine_s, total_s = engine_s + receipt.facts["engine_s"], total_s + receipt.seconds
        rows += 0 if receipt.name in earlier else receipt.rows
    return RunRecord(
        seconds=seconds,
        rows_per_s=rows / max(seconds, 1e-9),
        engine_s=engine_s,
        engine_share=min(1.0, engine_s / max(total_s, 1e-9)),
        device=torch.cuda.get_device_name() if job.cluster.gpus_per_actor and torch.cuda.is_available() else "cpu",
        machine=machine_name(),
        libraries=library_versions(),
    )
