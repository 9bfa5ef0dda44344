"""Measure a bundle on one split of a dataset, beside another bundle where one is given, and keep what it predicted."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from cisray import __version__
from cisray.bundle import Predictor, Strands, read_cards
from cisray.config import STRICT
from cisray.datasets.card import CARD_NAME, Card, card_to_dict, read_card
from cisray.datasets.gene_sums import GENES_NAME, GeneTable, write_gene_sums
from cisray.datasets.loci.folds import Split
from cisray.datasets.predictions import EVALUATION_NAME, prediction_schema, write_bigwigs
from cisray.datasets.replicates import Replicates
from cisray.datasets.schema import decode_examples, encode_rows, layout_of, split_files, to_float, verify_dataset
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import read_json, write_json
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.publishing import open_output, published
from cisray.flows.shards import Staging, Task, file_identity, run_tasks
from cisray.flows.visibility import check_visible
from cisray.genome.genes import Genes, read_genes
from cisray.genome.intervals import parse_region
from cisray.progress import Report, silent
from cisray.remote import local_path
from cisray.training.batches import cut_windows
from cisray.training.evaluation import CEILING_DEFINITION, EvaluationSums
from cisray.training.gene_metrics import (
    GENE_DEFINITIONS,
    GeneSpec,
    find_gene_bins,
    genes_under,
    own_stretches,
)
from cisray.training.metrics import DEFINITIONS
from cisray.transfer import regions_before, regions_of


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateJob:
    """What `cisray evaluate` is asked for."""

    model: str
    """A bundle's folder, or its URI."""
    dataset: str
    out: str
    split: Split = "test"
    head: str | None = None
    """Which head is measured, of a model that has several; the bundle beside has it too, or has one alone."""
    beside: str | None = None
    """Another bundle, such as the linear baseline, measured on the same bins."""
    strands: Strands = "learned"
    """"both" averages the readings of both strands; each model reads as it learned unless this says otherwise."""
    genes: GeneSpec | None = None
    """If set, sums over genes are compared too, across genes and across tracks."""
    ceiling: dict[str, str] = dataclasses.field(default_factory=dict)
    """Per track a second measurement, another track's name or a file of signal: how far two measurements agree."""
    batch_size: int = 32
    bigwig: bool = False
    """Write predictions and measurements as bigWig too, one file per track."""
    use_gpu: bool = False
    """Predict on GPUs, one per process."""
    cluster: ClusterSpec = ClusterSpec()

    @property
    def bundles(self) -> dict[str, str]:
        """The folders of the bundles, by role."""
        return {"model": self.model} | ({"beside": self.beside} if self.beside else {})

    @property
    def resources(self) -> ClusterSpec:
        """What of a cluster the job takes, with the GPUs."""
        if not self.use_gpu or self.cluster.gpus_per_actor:
            return self.cluster
        return dataclasses.replace(self.cluster, gpus_per_actor=1.0)


class _Evaluator:
    """Predicts the rows of one file at a time, in one process."""

    def __init__(self, job: EvaluateJob, genes: Genes | None) -> None:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        torch.backends.cudnn.allow_tf32 = False  # full float32, so that a GPU's figures are those of a CPU
        self._job, self._genes = job, genes
        self._card = read_card(Path(job.dataset))
        predictors = _open_bundles(job, device="cuda" if job.resources.gpus_per_actor else "cpu")
        for predictor in predictors.values():
            check_fits(predictor, self._card)
        self._readings = {role: predictor.reading(job.strands) for role, predictor in predictors.items()}
        self._replicates = Replicates(job.ceiling, self._card) if job.ceiling else None

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Predict one file's rows; the facts are the sums that metrics are made of."""
        card = self._card
        sums = _new_sums(self._job, card, self._genes)
        tables, done = [], 0
        for batch in pq.ParquetFile(values["path"]).iter_batches(batch_size=self._job.batch_size):
            rows = pa.Table.from_batches([batch])
            examples = decode_examples(rows, layout_of(card))
            natural = to_natural(to_float(examples.targets).astype(np.float64), card.transforms())
            measured = torch.from_numpy(natural).float()
            windows = cut_windows(torch.from_numpy(examples.codes.copy()), margin_bp=card.geometry.margin_bp)
            loci = rows["contig"].to_pylist(), rows["start"].to_numpy()
            second = None
            if self._replicates is not None:
                second = torch.from_numpy(self._replicates.read(*loci, natural))
                sums.update_ceiling(second, measured)
            bins = None
            if self._genes is not None and self._job.genes is not None:
                own = np.array(values["own"][done : done + len(rows)])
                part = self._job.genes.part
                bins = find_gene_bins(self._genes, *loci, own, geometry=card.geometry, part=part)
            for role, predict in self._readings.items():
                predicted = predict(windows).cpu()
                sums.update(role, predicted, measured, second)
                if bins is not None:
                    sums.update_genes(role, predicted, measured, bins)
                if role == "model":
                    tables.append(_prediction_rows(rows, predicted, measured, card))
            done += len(rows)
        return pa.concat_tables(tables), sums.to_plain()

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one file's predictions."""
        pq.write_table(table, path, compression="zstd", use_dictionary=False)


def evaluate(job: EvaluateJob, *, report: Report = silent) -> Path:
    """Measure the job's model, or go on with it, and return the folder of metrics and predictions.

    Raises:
        InputError: model and dataset do not belong together, or one is not whole; or the genes, or a second
            measurement, are not of this genome.
    """
    job = _with_local_paths(job)
    dataset_dir = Path(job.dataset)
    card = read_card(dataset_dir)
    predictors = _open_bundles(job)
    for predictor in predictors.values():
        check_fits(predictor, card)
        check_unseen(predictor, card, job.split)
    replicates = Replicates(job.ceiling, card)
    tasks, genes = _find_tasks(job, card)
    staging = open_output(job.out, _plan(job, card, predictors, replicates))
    if staging is None:
        return published(job.out)
    verify_dataset(dataset_dir, card)
    with cluster(job.resources):
        bundle_dirs = map(Path, job.bundles.values())
        check_visible([dataset_dir, *bundle_dirs, *replicates.paths], staging.path, need=job.resources.need)
        receipts = run_tasks(
            tasks,
            partial(_Evaluator, job, genes),
            staging=staging,
            cluster=job.resources,
            stage="evaluate",
            report=report,
        )
    sums = _new_sums(job, card, genes)
    for task in tasks:
        sums.add_plain(receipts[task.name].facts)
    models = {role: _results(sums, role, predictor, job) for role, predictor in predictors.items()}
    measured = {name for of_track in models["model"]["tracks"].values() for name in of_track}
    results: dict[str, Any] = {
        "split": job.split,
        "strands": predictors["model"].resolve(job.strands),
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in measured},
        "models": models,
        "cisray_version": __version__,
    }
    if job.head is not None:
        results["head"] = job.head
    if job.ceiling:
        seconds = {
            track: second if second in card.track_names else Path(second).name for track, second in job.ceiling.items()
        }
        results["ceiling"] = {"definition": CEILING_DEFINITION, "seconds": seconds, "models": sums.ceiling_metrics()}
    if genes is not None and job.genes is not None:
        results["genes"] = _gene_results(job.genes, genes, sums, card, staging)
    write_json(staging.path / EVALUATION_NAME, results)
    write_json(staging.path / CARD_NAME, card_to_dict(card))
    if job.bigwig:
        write_bigwigs(staging.path, card)
    staging.finish()
    return published(job.out)


def _with_local_paths(job: EvaluateJob) -> EvaluateJob:
    """Return the job for processes that work elsewhere; what URIs name is fetched."""
    dataset_dir = local_path(job.dataset)
    tracks = read_card(dataset_dir).track_names
    return dataclasses.replace(
        job,
        dataset=str(dataset_dir),
        model=str(local_path(job.model)),
        beside=None if job.beside is None else str(local_path(job.beside)),
        genes=None if job.genes is None else dataclasses.replace(job.genes, file=str(local_path(job.genes.file))),
        ceiling={
            track: second if second in tracks else str(local_path(second)) for track, second in job.ceiling.items()
        },
    )


def _open_bundles(job: EvaluateJob, *, device: str = "cpu") -> dict[str, Predictor]:
    """Open the bundles by role; the head is that of the model, and of the one beside if it has heads at all."""
    opened = {}
    for role, path in job.bundles.items():
        alone = role == "beside" and list(read_cards(Path(path))) == [None]
        opened[role] = Predictor(path, head=None if alone else job.head, device=device)
    return opened


def _plan(job: EvaluateJob, card: Card, predictors: Mapping[str, Predictor], replicates: Replicates) -> dict[str, Any]:
    """Return what makes an evaluation another one."""
    plan: dict[str, Any] = {
        "dataset": card.digest,
        "models": {role: predictor.digest for role, predictor in predictors.items()},
        "head": job.head,
        "split": job.split,
        "strands": job.strands,
        "batch_size": job.batch_size,
        "bigwig": job.bigwig,
        "ceiling": job.ceiling,
        "files": [file_identity(path) for path in replicates.paths],
        "cisray": __version__,
    }
    if job.genes is not None:
        plan["genes"] = dataclasses.asdict(job.genes) | {"file": file_identity(Path(job.genes.file))}
    return plan


def _find_tasks(job: EvaluateJob, card: Card) -> tuple[list[Task], Genes | None]:
    """Return a task per file of the split; with genes, those that its windows reach, and what each window adds."""
    paths = split_files(Path(job.dataset), card, job.split)
    tasks = [Task(path.stem, f"predictions/{path.name}", {"path": str(path)}) for path in paths]
    if job.genes is None:
        return tasks, None
    if card.kind != "coverage":
        raise InputError(f"genes: the dataset's targets are {card.kind}; sums over genes are of coverage")
    lengths = card.genome_for("comparing genes").contig_lengths
    genes = read_genes(job.genes.file, lengths, biotypes=job.genes.biotypes)
    loci = [pq.read_table(path, columns=["contig", "start"]) for path in paths]
    contigs = [contig for part in loci for contig in part["contig"].to_pylist()]
    own = own_stretches(contigs, np.concatenate([part["start"].to_numpy() for part in loci]), card.geometry)
    under = genes_under(genes, contigs, own, part=job.genes.part)
    if not len(under):
        raise InputError(
            f"{job.genes.file}: none of its {len(genes)} genes lies under a window of the {job.split} split; "
            "measure another split, or leave the genes out"
        )
    for task, stretches in zip(tasks, np.split(own, np.cumsum([len(part) for part in loci])[:-1]), strict=True):
        task.values["own"] = stretches.tolist()
    return tasks, under


def _new_sums(job: EvaluateJob, card: Card, genes: Genes | None) -> EvaluationSums:
    num_genes = 0 if genes is None else len(genes)
    return EvaluationSums(card, list(job.bundles), num_genes=num_genes, ceiling=list(job.ceiling))


def check_fits(predictor: Predictor, card: Card) -> None:
    """Raise InputError unless the model predicts this dataset's tracks and bins on its genome."""
    of_model = predictor.card
    if of_model.track_names != card.track_names:
        raise InputError(
            f"{predictor.path}: predicts the tracks {of_model.track_names}, the dataset has {card.track_names}; "
            "evaluate a model on a dataset with its own tracks"
        )
    if dataclasses.replace(of_model.geometry, margin_bp=0) != dataclasses.replace(card.geometry, margin_bp=0):
        raise InputError(
            f"{predictor.path}: has the geometry {of_model.geometry}, the dataset {card.geometry}; "
            "build the dataset with the model's geometry"
        )
    for ours, theirs in zip(card.tracks, of_model.tracks, strict=True):
        measured_as = ("statistic", "uncovered", "smooth_bp")
        if any(getattr(ours, name) != getattr(theirs, name) for name in measured_as):
            raise InputError(
                f"{predictor.path}: learned track {ours.name} as {[getattr(theirs, name) for name in measured_as]}, "
                f"the dataset has it as {[getattr(ours, name) for name in measured_as]} ({', '.join(measured_as)}); "
                "build the dataset with the model's track settings"
            )


def check_unseen(predictor: Predictor, card: Card, split: Split) -> None:
    """Raise InputError where a region to be measured is one the model learned from, or was selected on.

    That is what any head of it did, and any model whose weights its training began with. Contigs are compared by their
    bases, not their names. Of rows without places nothing is known here: those of a table were told apart by sequence.
    """
    if card.genome is None:
        return
    splits = {"train": (), "valid": ("train",), "test": ("train", "valid")}[split]
    seen = {
        "its {} split": regions_of(predictor.cards.values()),
        "the {} split of a model that it began with": regions_before(predictor.path),
    }
    regions = [parse_region(text, card.genome.contig_lengths) for text in card.regions[split]]
    for whose, others in seen.items():
        for other, region in product((one for one in others if one.split in splits), regions):
            same = other.contig_digest == card.genome.contig_digests[region.contig]
            if same and other.start < region.end and region.start < other.end:
                raise InputError(
                    f"{predictor.path}: {other.contig}:{other.start}-{other.end} is in {whose.format(other.split)}, "
                    f"and {region} would be measured as {split}; use a dataset made with the same folds"
                )


def _prediction_rows(rows: pa.Table, predicted: Tensor, measured: Tensor, card: Card) -> pa.Table:
    """Key predictions and measurements, float32 [B, N, T] on the natural scale, like the rows they came from."""
    columns = [rows[name] for name in ("contig", "start", "end", "strand")]
    arrays = [encode_rows(np.ascontiguousarray(values.numpy(), "<f4")) for values in (predicted, measured)]
    return pa.table([*columns, *arrays], schema=prediction_schema(card))


def _results(sums: EvaluationSums, role: str, predictor: Predictor, job: EvaluateJob) -> dict[str, Any]:
    """Say what a model's sums come to, per track."""
    trained = read_json(predictor.path / "metrics.json", what="bundle's metrics")
    return {
        "path": predictor.path.name,
        "digest": predictor.digest,
        "architecture": predictor.config.architecture,
        "num_parameters": trained["num_parameters"],
        "strands": predictor.resolve(job.strands),
        "history": trained["history"],
        "best_epoch": trained.get("best_epoch"),
        "tracks": sums.metrics(role),
    }


def _gene_results(spec: GeneSpec, genes: Genes, sums: EvaluationSums, card: Card, staging: Staging) -> dict[str, Any]:
    """Write the sums over genes down, and say what they come to."""
    of_model, part_bp = sums.genes["model"], genes.part_bp(spec.part)
    predicted, measured = of_model.sums[:2].float().numpy()
    table = GeneTable(predicted, measured, of_model.covered(part_bp).float().numpy())
    write_gene_sums(staging.path / GENES_NAME, genes.genes, table, tracks=card.track_names)
    return {
        "file": Path(spec.file).name,
        "part": spec.part,
        "biotypes": list(spec.biotypes),
        "least_covered": spec.least_covered,
        "counts": genes.facts | {"genes under no window": genes.facts["genes kept"] - len(genes)},
        "definitions": GENE_DEFINITIONS,
        "models": sums.gene_metrics(part_bp, least_covered=spec.least_covered),
    }
