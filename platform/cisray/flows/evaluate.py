"""Measure a bundle on one split of a dataset, beside another bundle where one is given, and keep what it predicted."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from cisray import __version__
from cisray.bundle import Predictor
from cisray.config import STRICT
from cisray.datasets.card import CARD_NAME, Card, card_to_dict, read_card
from cisray.datasets.loci.folds import Split
from cisray.datasets.predictions import EVALUATION_NAME, prediction_schema, write_bigwigs
from cisray.datasets.schema import decode_examples, encode_rows, layout_of, split_files, to_float, verify_dataset
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import read_json, write_json
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.shards import Task, open_staging, run_tasks
from cisray.genome.intervals import parse_region
from cisray.progress import Report, silent
from cisray.training.batches import cut_windows
from cisray.training.metrics import DEFINITIONS, ScoreHistogram, TrackSums


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateJob:
    """What `cisray evaluate` is asked for."""

    model: str
    """A bundle's folder."""
    dataset: str
    out: str
    split: Split = "test"
    beside: str | None = None
    """Another bundle, such as the linear baseline, measured on the same bins."""
    strands: Literal["forward", "both"] = "both"
    """"both" averages the readings of both strands."""
    batch_size: int = 32
    bigwig: bool = False
    """Write predictions and measurements as bigWig too, one file per track."""
    cluster: ClusterSpec = ClusterSpec()


class _Evaluator:
    """Predicts the rows of one file at a time, in one process."""

    def __init__(self, job: EvaluateJob) -> None:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        device = "cuda" if job.cluster.gpus_per_actor else "cpu"
        self._job = job
        self._card = read_card(Path(job.dataset))
        paths = {"model": job.model} | ({"beside": job.beside} if job.beside else {})
        self._predictors = {role: Predictor(path, device=device) for role, path in paths.items()}
        for predictor in self._predictors.values():
            _check_fits(predictor, self._card)

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Predict one file's rows; the facts are the sums that metrics are made of."""
        card, sums = self._card, {role: _new_sums(self._card) for role in self._predictors}
        tables = []
        for batch in pq.ParquetFile(values["path"]).iter_batches(batch_size=self._job.batch_size):
            rows = pa.Table.from_batches([batch])
            examples = decode_examples(rows, layout_of(card))
            targets = to_float(examples.targets).astype(np.float64)
            measured = torch.from_numpy(to_natural(targets, card.transforms())).float()
            windows = cut_windows(torch.from_numpy(examples.codes.copy()), margin_bp=card.geometry.margin_bp)
            for role, predictor in self._predictors.items():
                predicted = self._predict(predictor, windows)
                _add(sums[role], predicted, measured)
                if role == "model":
                    tables.append(_prediction_rows(rows, predicted, measured, card))
        facts = {role: {name: _to_plain(one) for name, one in named.items()} for role, named in sums.items()}
        return pa.concat_tables(tables), facts

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one file's predictions."""
        pq.write_table(table, path, compression="zstd", use_dictionary=False)

    def _predict(self, predictor: Predictor, windows: Tensor) -> Tensor:
        predict = predictor.both_strands if self._job.strands == "both" else predictor
        return predict(windows).cpu()


def evaluate(job: EvaluateJob, *, report: Report = silent) -> Path:
    """Measure the job's model, or go on with it, and return the folder of metrics and predictions.

    Raises:
        InputError: model and dataset do not belong together, or one is not whole.
    """
    dataset_dir, out = Path(job.dataset).absolute(), Path(job.out).absolute()
    job = dataclasses.replace(job, dataset=str(dataset_dir), model=str(Path(job.model).absolute()))
    card = read_card(dataset_dir)
    predictors = {role: Predictor(path) for role, path in (("model", job.model), ("beside", job.beside)) if path}
    for predictor in predictors.values():
        _check_fits(predictor, card)
        _check_unseen(predictor, card, job.split)
    plan = {
        "dataset": card.digest,
        "models": {role: predictor.digest for role, predictor in predictors.items()},
        "split": job.split,
        "strands": job.strands,
        "batch_size": job.batch_size,
        "bigwig": job.bigwig,
        "cisray": __version__,
    }
    staging = open_staging(out, plan)
    if staging is None:
        return out
    verify_dataset(dataset_dir, card)
    tasks = [
        Task(path.stem, f"predictions/{path.name}", {"path": str(path)})
        for path in split_files(dataset_dir, card, job.split)
    ]
    with cluster(job.cluster):
        receipts = run_tasks(
            tasks,
            partial(_Evaluator, job),
            staging=staging,
            cluster=job.cluster,
            stage="evaluate",
            report=report,
        )
    facts = [receipts[task.name].facts for task in tasks]
    models = {role: _results(role, predictor, facts, card) for role, predictor in predictors.items()}
    measured = {name for of_track in models["model"]["tracks"].values() for name in of_track}
    results = {
        "split": job.split,
        "strands": job.strands,
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in measured},
        "models": models,
        "cisray_version": __version__,
    }
    write_json(staging.path / EVALUATION_NAME, results)
    write_json(staging.path / CARD_NAME, card_to_dict(card))
    if job.bigwig:
        write_bigwigs(staging.path, card)
    staging.finish()
    return out


def _check_fits(predictor: Predictor, card: Card) -> None:
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


def _check_unseen(predictor: Predictor, card: Card, split: Split) -> None:
    """Raise InputError where a region to be measured is one the model learned from, or was selected on."""
    of_model, ours = predictor.card, card.genome
    theirs = of_model.genome
    if ours is None or theirs is None:
        return  # no loci to compare: rows of a table were told apart by their sequences
    seen_splits = {"train": (), "valid": ("train",), "test": ("train", "valid")}[split]
    for text in card.regions[split]:
        region = parse_region(text, ours.contig_lengths)
        if theirs.contig_digests.get(region.contig) != ours.contig_digests[region.contig]:
            continue  # a contig of another genome, or of the same name with other bases
        for name in seen_splits:
            for other in (parse_region(seen, theirs.contig_lengths) for seen in of_model.regions[name]):
                if other.contig == region.contig and other.start < region.end and region.start < other.end:
                    raise InputError(
                        f"{predictor.path}: {other} is in its {name} split, and {region} would be measured as {split}; "
                        "use a dataset made with the same folds"
                    )


def _new_sums(card: Card) -> dict[str, TrackSums | ScoreHistogram]:
    """Return what metrics of this kind of targets are made of: coverage has logarithms, labels are told apart."""
    sums: dict[str, TrackSums | ScoreHistogram] = {"natural": TrackSums(len(card.tracks))}
    if card.kind == "coverage":
        sums["log1p"] = TrackSums(len(card.tracks))
    if card.kind == "labels":
        sums["scores"] = ScoreHistogram(len(card.tracks))
    return sums


def _add(sums: Mapping[str, TrackSums | ScoreHistogram], predicted: Tensor, measured: Tensor) -> None:
    sums["natural"].update(predicted, measured)
    if "log1p" in sums:
        sums["log1p"].update(torch.log1p(predicted.clamp(min=0)), torch.log1p(measured))
    if "scores" in sums:
        sums["scores"].update(torch.logit(predicted.double().clamp(0, 1), eps=1e-9), measured)


def _to_plain(sums: TrackSums | ScoreHistogram) -> list[list[float]]:
    """Return sums as plain numbers; of a histogram, where it is not 0 and how much it holds there."""
    if isinstance(sums, TrackSums):
        return sums.sums.tolist()
    flat = sums.counts.flatten()
    places = flat.nonzero()[:, 0]
    return [places.tolist(), flat[places].tolist()]


def _add_plain(sums: TrackSums | ScoreHistogram, plain: list[list[float]]) -> None:
    """Add what `_to_plain` returned."""
    if isinstance(sums, TrackSums):
        sums.sums += torch.tensor(plain, dtype=torch.float64)
    else:
        places, counts = (torch.tensor(column, dtype=torch.int64) for column in plain)
        sums.counts.view(-1).index_add_(0, places, counts)


def _prediction_rows(rows: pa.Table, predicted: Tensor, measured: Tensor, card: Card) -> pa.Table:
    """Key predictions and measurements, float32 [B, N, T] on the natural scale, like the rows they came from."""
    columns = [rows[name] for name in ("contig", "start", "end", "strand")]
    arrays = [encode_rows(np.ascontiguousarray(values.numpy(), "<f4")) for values in (predicted, measured)]
    return pa.table([*columns, *arrays], schema=prediction_schema(card))


def _results(role: str, predictor: Predictor, facts: list[dict[str, Any]], card: Card) -> dict[str, Any]:
    """Add up the sums of all files and say what they come to, per track."""
    sums = _new_sums(card)
    for name, one in sums.items():
        for fact in facts:
            _add_plain(one, fact[role][name])
    columns: dict[str, Tensor] = {}
    for name, one in sums.items():
        if isinstance(one, ScoreHistogram):
            columns |= {"auroc": one.auroc(), "average_precision": one.average_precision()}
        elif name == "log1p":
            columns["pearson_log1p"] = one.pearson()
        else:
            columns |= {"num_bins": one.num_bins(), "pearson": one.pearson(), "r2": one.r2()}
    trained = read_json(predictor.path / "metrics.json", what="bundle's metrics")
    return {
        "path": predictor.path.name,
        "digest": predictor.digest,
        "architecture": predictor.config.architecture,
        "num_parameters": trained["num_parameters"],
        "history": trained["history"],
        "best_epoch": trained.get("best_epoch"),
        "tracks": {
            track: {name: _plain(values[index]) for name, values in columns.items()}
            for index, track in enumerate(card.track_names)
        },
    }


def _plain(value: Tensor) -> float | None:
    """Return a number for JSON: NaN, which a track without data gives, is None."""
    number = float(value)
    return number if np.isfinite(number) else None
