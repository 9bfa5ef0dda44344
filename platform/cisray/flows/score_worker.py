"""Score one block of variants: place them in windows, run the engine, and lay out what it finds as rows."""

import functools
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cisray.bundle import Predictor
from cisray.config import data_path
from cisray.datasets.loci.regions import NO_SPANS, Spans, load_spans
from cisray.errors import InputError
from cisray.files import file_digest, written_whole
from cisray.flows.score_job import ScoreJob
from cisray.flows.shards import check_unchanged
from cisray.genome.genes import Gene, GenePart, Genes, read_genes
from cisray.genome.reference import Reference
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Edit, Flag
from cisray.scoring.calibration import Calibration, read_calibration
from cisray.scoring.effects import SCORES, USUAL_SCORES, make_measure, resolve_scores
from cisray.scoring.engine import TOLERANCES, Engine, Scored
from cisray.scoring.masks import make_masks, offsets_of_kept, parse_mask
from cisray.scoring.nulls import AgainstNull, hold_against, windows_with_nulls
from cisray.scoring.readout import Model, with_head
from cisray.scoring.rows import GENE_COLUMNS, ScoredRows, build_gene_rows, build_rows, count_underflows, write_rows
from cisray.scoring.schema import GENES_DIR
from cisray.scoring.windows import Placed, Placing, WindowEdits, place_variants


@dataclass(frozen=True, kw_only=True)
class ScorerPlan:
    """What every process that scores must know; picklable."""

    job: ScoreJob
    bundle_dirs: tuple[Path, ...]
    """The model's folder, and those of an ensemble."""
    contig_names: Mapping[str, str]
    """The variants file's contigs -> the genome's."""
    staging: Path
    files: tuple[str, ...] = ()
    """What the job names of files that a worker reads: the genome, and what is beside it."""
    identities: tuple[Mapping[str, Any], ...] = ()
    """What they were when the run was planned."""


class Found(NamedTuple):
    """What the engine found for the windows of a block, and how long it took."""

    windows: list[Scored]
    nulls: list[dict[str, AgainstNull]]
    """Of each window per score, where its edits stand, [E, T]; empty where no null is asked for."""
    engine_s: float


def score_names(job: ScoreJob, predictor: Predictor) -> list[str]:
    """Return the names of a job's scores: those asked for, or what suits the model's targets."""
    return list(resolve_scores(USUAL_SCORES[predictor.card.kind] if job.scores is None else job.scores))


def gene_score_names(job: ScoreJob) -> list[str]:
    """Return the names of a job's scores of genes; none without an annotation."""
    return list(resolve_scores(job.genes.scores)) if job.genes.annotation else []


def null_names(job: ScoreJob, names: Sequence[str]) -> list[str]:
    """Return which of a job's scores are held against shuffled windows: all but places, where it asks for any."""
    return [name for name in names if job.null.number and not SCORES[name].is_place]


def model_of(predictor: Predictor) -> Model:
    """Return a bundle's network as the engine takes it; of one with several heads, that of the predictor's head."""
    card, network = predictor.card, predictor.network
    if predictor.head is not None:
        network = with_head(network, predictor.head)
    return Model(network, predictor.link, card.transforms(), predictor.swap.numpy(), card.geometry, len(card.tracks))


def placing_of(job: ScoreJob, window_bp: int) -> Placing:
    """Return how a job's variants are placed; raise InputError where alleles or grid do not fit the windows."""
    return Placing(
        window_bp=window_bp,
        windows=job.windows,
        max_allele_bp=job.max_allele_bp,
        ref_mismatch=job.ref_mismatch,
        shifts=job.engine.shifts,
    )


GENE_WINDOWS = 128
"""Windows whose genes are remembered: neighbours share them, and masks of many would fill the memory."""


class Scorer:
    """Scores planned blocks in one process, with its own models and genome."""

    def __init__(self, plan: ScorerPlan) -> None:
        self.job = job = plan.job
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        device = torch.device("cuda" if job.cluster.gpus_per_actor else "cpu")
        predictors = [Predictor(path, head=job.head, device=device) for path in plan.bundle_dirs]
        card = predictors[0].card
        self._geometry = card.geometry
        self._tracks = list(job.tracks) or card.track_names
        self._names, self._of_genes = score_names(job, predictors[0]), gene_score_names(job)
        self._calibration: Calibration | None = None
        if job.calibration is not None:
            self._calibration = read_calibration(plan.bundle_dirs[0], job.calibration)
        unchecked = [name for name in self._names if SCORES[name].is_place or SCORES[name].jumps]
        # where nothing of what is asked for can be held against full forwards, this is
        guards = [] if len(unchecked) < len(self._names) + len(self._of_genes) else ["delta_sum"]
        self._engine = Engine(
            [model_of(predictor) for predictor in predictors],
            measure=make_measure([*self._names, *self._of_genes, *guards]),
            spec=job.engine,
            tracks=[card.track_names.index(name) for name in self._tracks] if job.tracks else None,
            unchecked=unchecked,
            device=device,
        )
        self._stitched = job.engine.align_for(card.geometry) == "stitch"
        self._reference = Reference(data_path(job.fasta, job.data_dir))
        self._contig_names, self._staging = dict(plan.contig_names), plan.staging
        self._placing = placing_of(job, card.geometry.window_bp)
        self._mask, self._gene_mask = parse_mask(job.mask), parse_mask(job.genes.mask)
        self._spans = self._load_spans()
        self._genes: Genes | None = None
        if job.genes.annotation is not None:
            path = data_path(job.genes.annotation, job.data_dir)
            self._genes = read_genes(path, self._reference.contig_lengths, biotypes=job.genes.biotypes)
        self._near_genes = functools.lru_cache(maxsize=GENE_WINDOWS)(self._find_genes)
        paths = [data_path(name, job.data_dir) for name in plan.files]
        self._check_inputs = functools.partial(check_unchanged, paths, plan.identities)

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Score one block; the facts are its counts, its noise floor, its guard and the engine's time.

        Raises:
            InputError: batches are too large for the device, the disk is full, or a file that is read has changed.
        """
        self._check_inputs()
        planned = pq.ParquetFile(values["planned"]).read()
        columns = [planned[name].to_pylist() for name in Variant._fields]
        variants = list(map(Variant._make, zip(*columns, strict=True)))
        contigs = [self._contig_names.get(variant.contig) for variant in variants]
        placed = place_variants(variants, contigs, self._reference, placing=self._placing, masks_of=self._masks_of)
        try:
            found = self._run(placed)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"engine: batches of {self.job.engine.batch_size} windows do not fit into the memory of "
                f"{self._engine.device} ({str(error).split('.')[0]}); set a smaller engine.batch_size"
            ) from None
        scored = np.flatnonzero(placed.window >= 0)
        first_masks = self._first_masks(placed, scored)
        matrices = self._values(placed, scored, found, first_masks, self._names)
        table = build_rows(
            planned,
            placed.statuses,
            self._scored_rows(placed, scored, matrices, found.nulls),
            tracks=self._tracks,
            storage=self.job.storage,
        )
        facts = {
            "counts": dict(Counter(status.value for status in placed.statuses)),
            "noise_floor": self._engine.noise_floor,
            "recomputed": min(self.job.engine.check_rows, int(placed.num_edits.sum()) * (1 + self.job.null.number)),
            "difference": max(self._engine.checked.values(), default=0.0),
            "underflows": count_underflows(matrices, self._tracks, self.job.storage),
            "engine_s": found.engine_s,
            "records": len({variant.record_index for variant in variants}),
            "first": min(variant.record_index for variant in variants),
            "last": max(variant.record_index for variant in variants),
        }
        self._check_inputs()
        if self._genes is not None:
            genes = self._gene_rows(placed, scored, found, first_masks, variants, contigs)
            facts |= self._write_genes(genes, f"{GENES_DIR}/{Path(values['planned']).name}")
        return table, facts

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one block's rows."""
        write_rows(table, path)

    def _run(self, placed: Placed) -> Found:
        """Run the engine over a block's windows; reading and shuffling their bases is not its time."""
        reading_s = 0.0

        def windows() -> Iterator[WindowEdits]:
            nonlocal reading_s
            asked = time.perf_counter()
            for window in windows_with_nulls(placed, self.job.null):
                reading_s += time.perf_counter() - asked
                yield window
                asked = time.perf_counter()

        started = time.perf_counter()
        found, nulls = [], []
        scored = self._engine.score(windows())
        for number in range(len(placed.held)):
            found.append(next(scored))
            if self.job.null.number:
                nulls.append(self._hold_edits(found[-1], scored, self._offsets_of_edits(placed, number)[:-1]))
        assert next(scored, None) is None  # which lets the engine check a sample
        return Found(found, nulls, time.perf_counter() - started - reading_s)

    def _hold_edits(self, window: Scored, nulls: Iterator[Scored], firsts: NDArray[np.int64]) -> dict[str, AgainstNull]:
        """Hold the edits of a window, each at its first mask, against their nulls, which come next, edit by edit."""
        against: dict[str, list[AgainstNull]] = {name: [] for name in null_names(self.job, self._names)}
        for first in firsts:
            shuffled = list(itertools.islice(nulls, self.job.null.number))
            for name, held in against.items():
                null = np.concatenate([each.values[name] for each in shuffled])
                held.append(hold_against(window.values[name][first], null))
        return {name: AgainstNull(*map(np.stack, zip(*held, strict=True))) for name, held in against.items()}

    def _masks_of(self, contig: str, window_start: int, edit: Edit) -> NDArray[np.bool_]:
        """Return the bins that an edit's scores read, then those of each gene in its window, [1 + genes, N]."""
        regions = [self._spans.get(contig, NO_SPANS)] if self._mask.kind == "bed" else []
        masks = make_masks(
            self._mask, window_start=window_start, position=edit.start, geometry=self._geometry, regions=regions
        )
        masks = masks[masks.any(axis=1)]
        if not len(masks) or self._genes is None:
            return masks
        return np.concatenate([masks, self._near_genes(contig, window_start)[1]])

    def _find_genes(self, contig: str, window_start: int) -> tuple[list[Gene], NDArray[np.bool_]]:
        """Return the genes that have bins in a window's output, and these bins, [genes, N]."""
        assert self._genes is not None
        geometry = self._geometry
        first = window_start + geometry.crop_bp
        part: GenePart = "exons" if self._gene_mask.argument == "exon" else "span"
        genes = self._genes.overlapping(contig, first, first + geometry.target_bp, part=part)
        regions = [Spans(*gene.intervals(part).T) for gene in genes]
        masks = make_masks(
            self._gene_mask, window_start=window_start, position=first, geometry=geometry, regions=regions
        )
        with_bins = np.flatnonzero(masks.any(axis=1))
        return [genes[index] for index in with_bins], masks[with_bins]

    def _first_masks(self, placed: Placed, scored: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return where each scored row's values begin among those of its window, [S]."""
        offsets = [self._offsets_of_edits(placed, number) for number in range(len(placed.held))]
        return np.array(
            [offsets[window][edit] for window, edit in zip(placed.window[scored], placed.edit[scored], strict=True)],
            np.int64,
        )

    def _offsets_of_edits(self, placed: Placed, window: int) -> NDArray[np.int64]:
        """Return where the values of each of a window's E edits begin, and where they end, [E + 1]."""
        return np.cumsum([0, *(len(edit.masks) for edit in placed.held[window].edits.values())])

    def _values(
        self,
        placed: Placed,
        scored: NDArray[np.intp],
        found: Found,
        places: NDArray[np.int64],
        names: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        """Return per score the values [S, T] at a place in each row's window; of flipped rows with roles exchanged."""
        scores, turned = resolve_scores(names), placed.flipped[scored]
        values = {}
        for name in names:
            matrix = np.empty((len(scored), len(self._tracks)), np.float32)
            for row, (window, place) in enumerate(zip(placed.window[scored], places, strict=True)):
                matrix[row] = found.windows[window].values[name][place]
            if scores[name].signed:
                matrix[turned] *= -1
            values[name] = self._offsets(placed, scored, matrix) if scores[name].is_place else matrix
        return values

    def _offsets(self, placed: Placed, scored: NDArray[np.intp], ranks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how many bases lie from each row's norm_pos to the kept bin of a rank, [S, T]."""
        masks = [[edit.masks[0] for edit in window.edits.values()] for window in placed.held]
        offsets = np.empty_like(ranks)
        for index, row in enumerate(scored):
            normal = placed.normals[row]
            assert normal is not None
            of_kept = offsets_of_kept(
                masks[placed.window[row]][placed.edit[row]],
                window_start=int(placed.window_start[row]),
                position=normal.norm_pos - 1,
                geometry=self._geometry,
            )
            offsets[index] = of_kept[ranks[index].astype(np.int64)]
        return offsets

    def _scored_rows(
        self,
        placed: Placed,
        scored: NDArray[np.intp],
        values: Mapping[str, NDArray[np.float32]],
        nulls: Sequence[Mapping[str, AgainstNull]],
    ) -> ScoredRows:
        normals = [normal for row in scored if (normal := placed.normals[row]) is not None]
        flags = placed.flags[scored].copy()
        if self._stitched:
            flags[(flags & int(Flag.INDEL)) != 0] |= int(Flag.INDEL_STITCHED)
        quantiles = {}
        if self._calibration is not None:
            quantiles = {
                name: self._calibration.quantiles(name, matrix, tracks=self._tracks) for name, matrix in values.items()
            }
        return ScoredRows(
            rows=scored,
            norm_pos=np.array([normal.norm_pos for normal in normals], np.int64),
            norm_ref=[normal.norm_ref for normal in normals],
            norm_alt=[normal.norm_alt for normal in normals],
            flags=flags,
            window_start=placed.window_start[scored],
            center_offset=placed.center_offset[scored],
            n_passes=np.full(len(scored), self._engine.passes),
            values=values,
            quantiles=quantiles,
            nulls=self._nulls_of_rows(placed, scored, nulls),
        )

    def _nulls_of_rows(
        self, placed: Placed, scored: NDArray[np.intp], nulls: Sequence[Mapping[str, AgainstNull]]
    ) -> dict[str, AgainstNull]:
        """Return where the scored rows stand, [S, T] per score; the signs of flipped ones turn as their scores' do."""
        of_rows = {}
        for name in null_names(self.job, self._names):
            shape = len(scored), len(self._tracks)
            z, p = np.empty(shape, np.float32), np.empty(shape, np.float32)
            for index, row in enumerate(scored):
                held = nulls[placed.window[row]][name]
                z[index], p[index] = held.z[placed.edit[row]], held.p[placed.edit[row]]
            if SCORES[name].signed:
                z[placed.flipped[scored]] *= -1
            of_rows[name] = AgainstNull(z, p)
        return of_rows

    def _gene_rows(
        self,
        placed: Placed,
        scored: NDArray[np.intp],
        found: Found,
        first_masks: NDArray[np.int64],
        variants: Sequence[Variant],
        contigs: Sequence[str | None],
    ) -> pa.Table:
        """Return a row for every gene in the window of every scored row."""
        rows: list[int] = []
        places: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for name in GENE_COLUMNS}
        for row, first in zip(scored.tolist(), first_masks.tolist(), strict=True):
            contig, normal = contigs[row], placed.normals[row]
            assert contig is not None
            assert normal is not None
            for number, gene in enumerate(self._near_genes(contig, int(placed.window_start[row]))[0], start=1):
                rows.append(row)
                places.append(first + number)
                distance = normal.norm_pos - 1 - gene.tss
                of_gene = (gene.id, gene.name, gene.strand, -distance if gene.strand == "-" else distance)
                of_row = (variants[row].record_index, variants[row].allele_index)
                for name, value in zip(GENE_COLUMNS, (*of_row, *of_gene), strict=True):
                    columns[name].append(value)
        chosen = np.array(rows, np.intp)
        values = self._values(placed, chosen, found, np.array(places, np.int64), self._of_genes)
        return build_gene_rows(pa.table(columns), values, tracks=self._tracks, storage=self.job.storage)

    def _write_genes(self, genes: pa.Table, file: str) -> dict[str, Any]:
        """Write a block's rows of genes beside its rows, and say what they are."""
        if not genes.num_rows:
            return {}
        path = self._staging / file
        with written_whole(path) as aside:
            write_rows(genes, aside)
        records = genes["record_index"].to_numpy()
        sha256 = file_digest(path)
        block = {
            "name": path.name,
            "rows": genes.num_rows,
            "sha256": sha256,
            "first": int(records.min()),
            "last": int(records.max()),
        }
        return {"genes": block, "files": {file: sha256}}

    def _load_spans(self) -> Mapping[str, Spans]:
        """Return the intervals of a mask of a file by contig."""
        if self._mask.kind != "bed":
            return {}
        return load_spans(self._mask.argument, self._reference.contig_lengths, data_dir=self.job.data_dir).spans


def tolerance_of(job: ScoreJob) -> float:
    """Return how far full forwards may lie from what is found, as a share of the largest score."""
    return job.engine.tolerance or TOLERANCES[job.engine.precision]
