"""Train a model on each of several conditions and test each on all of them, on loci that no model has learned from.

It trains by the same `train` that `cisray train` calls. Trainings and cells that are done are not done again:

    swap.json, swap.csv, cells.csv      see baselines.swap_table
    datasets/FOLD/CONDITION/            what each model learned from and was tested on
    models/RUN/CONDITION/               a bundle each
    predictions/RUN/A.on.B.parquet      what A's model predicted of B's test loci, beside what was measured
"""

import dataclasses
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cisray import __version__
from cisray.baselines.swap_datasets import Source, choose_tracks, write_condition
from cisray.baselines.swap_loci import (
    SEEN,
    Condition,
    Dealt,
    compare_by,
    deal_folds,
    group_loci,
    keep_splits,
    read_measured,
    read_rows,
)
from cisray.baselines.swap_table import LOST, METRICS, SWAP_NAME, Cell, Measured, make_cells, write_tables
from cisray.bundle import Predictor, bundle_digest
from cisray.datasets.card import CARD_NAME, Card, Inputs, read_card
from cisray.datasets.predictions import prediction_schema
from cisray.datasets.schema import decode_examples, encode_rows, iter_examples, layout_of, to_float, verify_dataset
from cisray.datasets.tables.near_pairs import NOTHING_MISSED, Search
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.cluster import cluster
from cisray.flows.shards import Staging, Task, open_staging, run_tasks
from cisray.flows.swap_job import Run, SwapJob
from cisray.flows.train import train
from cisray.flows.visibility import check_visible
from cisray.progress import Progress, Report, silent
from cisray.training.batches import cut_windows
from cisray.training.evaluation import EvaluationSums
from cisray.training.metrics import DEFINITIONS


class _Tester:
    """Tests one model on one condition's test loci at a time, in one process."""

    def __init__(self, job: SwapJob) -> None:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        self._job = job

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Predict the test loci of a condition; the facts are the metrics per track."""
        dataset_dir = Path(values["dataset"])
        card, predictor = read_card(dataset_dir), Predictor(values["model"])
        predict = predictor.reading(self._job.strands)
        sums, tables = EvaluationSums(card, ["model"]), []
        for rows in iter_examples(dataset_dir, card, "test", batch_size=self._job.batch_size):
            examples = decode_examples(rows, layout_of(card))
            natural = to_natural(to_float(examples.targets).astype(np.float64), card.transforms())
            measured = torch.from_numpy(natural).float()
            codes = torch.from_numpy(examples.codes.copy())
            predicted = predict(cut_windows(codes, margin_bp=card.geometry.margin_bp)).cpu()
            sums.update("model", predicted, measured)
            arrays = [encode_rows(np.ascontiguousarray(each.numpy(), "<f4")) for each in (predicted, measured)]
            loci = [rows[name] for name in ("contig", "start", "end", "strand")]
            tables.append(pa.table([*loci, *arrays], schema=prediction_schema(card)))
        return pa.concat_tables(tables), {"tracks": sums.metrics("model")}

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one cell's predictions."""
        pq.write_table(table, path, compression="zstd", use_dictionary=False)


def swap(job: SwapJob, *, start_dir: Path | None = None, report: Report = silent) -> Path:
    """Train and test all conditions' models, or go on with it, and return the folder of the table.

    Args:
        job: what to swap.
        start_dir: the folder of the bundle that the trainings' `start.model` names.
        report: told what is trained and tested.

    Raises:
        InputError: the conditions do not compare, no locus is left to learn from, or a training cannot be done.
    """
    out = Path(job.out).absolute()
    sources = _open_sources(job)
    metric = _choose_metric(job, sources)
    staging = open_staging(out, _plan(job, sources, start_dir))
    if staging is None:
        return out
    for source in {one.dataset_dir: one for one in sources.values()}.values():
        verify_dataset(source.dataset_dir, source.card)
    by = compare_by([source.card for source in sources.values()])
    try:
        cards = _write_datasets(job, sources, staging)
    except InputError:
        _give_up(staging)
        raise
    with cluster(job.cluster):
        check_visible([], staging.path, need=job.cluster.need)
        _train_all(job, staging, start_dir=start_dir, report=report)
        tasks = _find_tasks(job, staging)
        receipts = run_tasks(
            tasks, partial(_Tester, job), staging=staging, cluster=job.cluster, stage="test", report=report
        )
    measured = []
    for task in tasks:
        receipt, run = receipts[task.name], task.values["run"]
        cell = task.values["trained_on"], task.values["tested_on"]
        measured.append(Measured(run, *cell, receipt.rows, receipt.facts["tracks"]))
    cells = make_cells(measured, list(job.conditions), metric=metric)
    runs = [run.name for run in job.runs]
    write_tables(staging.path, cells, runs, metric=metric)
    results = _results(job, sources, cells, metric=metric)
    search = next(iter(next(iter(cards.values())).values())).facts["swap"]["search"]
    loci = dataclasses.asdict(job.loci) | {"compared_by": by, "search": search, "runs": _count_loci(cards)}
    digests = {run: {name: bundle_digest(_model_dir(staging, run, name)) for name in job.conditions} for run in runs}
    write_json(staging.path / SWAP_NAME, results | {"runs": runs, "loci": loci, "models": digests})
    _drop_caches(job, staging)
    staging.finish()
    return out


def _open_sources(job: SwapJob) -> dict[str, Source]:
    """Open the conditions' datasets; raise InputError where they do not compare."""
    sources: dict[str, Source] = {}
    for name, spec in job.conditions.items():
        path = Path(spec.dataset).absolute()
        card = read_card(path)
        if card.inputs != Inputs():
            raise InputError(f"conditions: {name}: rows of {card.name} hold more inputs than one sequence")
        sources[name] = Source(path, card, choose_tracks(card, spec.tracks, source=f"conditions: {name}"))
    (first, like), *others = sources.items()
    for name, source in others:
        for what, ours, theirs in (
            ("kind of targets", source.card.kind, like.card.kind),
            ("geometry", _window_of(source.card), _window_of(like.card)),
            ("number of tracks", len(source.tracks), len(like.tracks)),
        ):
            if ours != theirs:
                raise InputError(
                    f"conditions: the {what} of {name} is {ours}, of {first} {theirs}; a model of one could not be "
                    "tested on the other: build their datasets alike, and name as many tracks"
                )
    return sources


def _window_of(card: Card) -> str:
    geometry = card.geometry
    return f"window_bp={geometry.window_bp}, bin_bp={geometry.bin_bp}, crop_bins={geometry.crop_bins}"


def _choose_metric(job: SwapJob, sources: Mapping[str, Source]) -> str:
    kind = next(iter(sources.values())).card.kind
    if job.metric is not None and job.metric not in METRICS[kind]:
        raise InputError(f"metric={job.metric}: of {kind} there are {', '.join(METRICS[kind])}; name one of them")
    return job.metric or METRICS[kind][0]


def _plan(job: SwapJob, sources: Mapping[str, Source], start_dir: Path | None) -> dict[str, Any]:
    """Return what makes two swaps the same: neither where files stand, nor on what machines it runs."""
    asked = dataclasses.asdict(job)
    for name in ("out", "cluster", "conditions", "train"):
        del asked[name]
    return asked | {
        "conditions": {name: [source.card.digest, source.tracks] for name, source in sources.items()},
        "train": {name: value for name, value in job.train.items() if name != "workers"},
        "start": None if start_dir is None else bundle_digest(start_dir),
        "cisray": __version__,
    }


def _write_datasets(job: SwapJob, sources: Mapping[str, Source], staging: Staging) -> dict[str, dict[str, Card]]:
    """Write what each condition's model learns from and is tested on, by fold; what is there already stays."""
    found: dict[str, dict[str, Card]] = {}
    folds = list(dict.fromkeys(run.fold for run in job.runs))
    folders = {fold: {name: _dataset_dir(staging, Run(fold, None), name) for name in sources} for fold in folds}
    if not all((path / CARD_NAME).exists() for paths in folders.values() for path in paths.values()):
        runs, search = _deal(job, sources)
        for fold, dealt in zip(folds, runs, strict=True):
            for name, path in folders[fold].items():
                if not (path / CARD_NAME).exists():
                    facts = {"condition": name, "fold": fold, "left_out": dealt[name].left_out}
                    facts |= {"search": search._asdict()}
                    write_condition(path, sources[name], dealt[name], name=f"{job.name}-{name}", facts=facts)
    for fold, paths in folders.items():
        found[Run(fold, None).name] = {name: read_card(path) for name, path in paths.items()}
    return found


def _give_up(staging: Staging) -> None:
    """Remove a folder in which nothing was trained, so that the job may begin there again with other settings."""
    if not (staging.path / "models").exists():
        staging.lock.close()
        shutil.rmtree(staging.path)


def _deal(job: SwapJob, sources: Mapping[str, Source]) -> tuple[list[dict[str, Dealt]], Search]:
    """Say what each row of each condition is for, fold by fold, and how loci that are alike were looked for.

    A dataset that conditions share is read once.
    """
    by = compare_by([source.card for source in sources.values()])
    datasets = {source.card.digest: source for source in sources.values()}
    parts = {
        digest: read_rows(one.dataset_dir, one.card, with_codes=by == "sequence") for digest, one in datasets.items()
    }
    conditions = {
        name: Condition(
            parts[source.card.digest],
            read_measured(source.dataset_dir, source.card, source.tracks),
            source.card.geometry.margin_bp,
        )
        for name, source in sources.items()
    }
    if not job.loci.num_folds and len(datasets) == 1:  # they share the splits, and nothing is seen
        own = {name: np.arange(len(one.measured)) for name, one in conditions.items()}
        return [keep_splits(conditions, own)], NOTHING_MISSED
    if not job.loci.num_folds and by == "place":
        return [keep_splits(conditions, None)], NOTHING_MISSED
    apart_bp = max(job.loci.apart_bp, job.example.training.shift_bp)  # as far as a training reads beyond a window
    found, search = group_loci(list(parts.values()), dataclasses.replace(job.loci, apart_bp=apart_bp), by=by)
    of_datasets = dict(zip(parts, found, strict=True))
    groups = {name: of_datasets[source.card.digest] for name, source in sources.items()}
    if job.loci.num_folds:
        return deal_folds(conditions, groups, job.loci), search
    return [keep_splits(conditions, groups)], search


def _drop_caches(job: SwapJob, staging: Staging) -> None:
    """Remove what trainings have put beside the datasets: features that only they read, with times of their own."""
    for folder in (staging.path / "datasets").glob("*/*"):
        if folder.name not in job.conditions:
            shutil.rmtree(folder)


def _dataset_dir(staging: Staging, run: Run, condition: str) -> Path:
    return staging.path / "datasets" / Run(run.fold, None).name / condition


def _model_dir(staging: Staging, run: str, condition: str) -> Path:
    return staging.path / "models" / run / condition


def _train_all(job: SwapJob, staging: Staging, *, start_dir: Path | None, report: Report) -> None:
    """Train every condition's model in every run, one after another."""
    wanted = [(run, name) for run in job.runs for name in job.conditions]
    for done, (run, name) in enumerate(wanted):
        report(Progress("models", done, len(wanted), "models", note=f"{run.name}: {name}"))
        dataset, out = _dataset_dir(staging, run, name), _model_dir(staging, run.name, name)
        train(job.train_job(run, name, dataset=dataset, out=out), start_dir=start_dir, report=report)
    report(Progress("models", len(wanted), len(wanted), "models"))


def _find_tasks(job: SwapJob, staging: Staging) -> list[Task]:
    tasks = []
    for run in job.runs:
        for trained_on in job.conditions:
            for tested_on in job.conditions:
                cell = f"{trained_on}.on.{tested_on}"
                values = {
                    "run": run.name,
                    "trained_on": trained_on,
                    "tested_on": tested_on,
                    "model": str(_model_dir(staging, run.name, trained_on)),
                    "dataset": str(_dataset_dir(staging, run, tested_on)),
                }
                tasks.append(Task(f"{run.name}.{cell}", f"predictions/{run.name}/{cell}.parquet", values))
    return tasks


def _count_loci(cards: Mapping[str, Mapping[str, Card]]) -> dict[str, dict[str, Any]]:
    """Return per fold and condition how many rows each split has, and how many were left out and why."""
    return {
        fold: {name: {**card.counts, "left_out": card.facts["swap"]["left_out"]} for name, card in of_fold.items()}
        for fold, of_fold in cards.items()
    }


def _results(job: SwapJob, sources: Mapping[str, Source], cells: list[Cell], *, metric: str) -> dict[str, Any]:
    named = {
        name: {
            "dataset": source.card.name,
            "digest": source.card.digest,
            "tracks": [source.card.track_names[place] for place in source.tracks],
        }
        for name, source in sources.items()
    }
    known = {name for cell in cells for name in cell.metrics}
    definitions = {name: text for name, text in DEFINITIONS.items() if name in known}
    return {
        "name": job.name,
        "conditions": named,
        "metric": metric,
        "strands": job.strands,
        "architecture": job.example.model.architecture,
        "train": job.train,
        "cells": [cell._asdict() for cell in cells],
        "definitions": definitions | {"lost": LOST, "left out": SEEN},
        "cisray_version": __version__,
    }
