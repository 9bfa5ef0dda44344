"""Measure which features and words matter to a bundle, on windows that it has not learned from, and keep the table.

The folder holds what `baselines.importance_table` says, and parts/*.parquet: its rows as the workers wrote them.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from cisray import __version__
from cisray.baselines.estimators import ShallowModel, TableModel
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.held_out import METRICS
from cisray.baselines.importance import (
    Groups,
    Importance,
    coefficients,
    groups_by_pattern,
    groups_of_sets,
    loss_when_removed,
    loss_when_shuffled,
)
from cisray.baselines.importance_table import (
    IMPORTANCE_NAME,
    TABLE_NAME,
    importance_rows,
    plain_values,
    stability_rows,
    write_table,
)
from cisray.baselines.stability import Stability, stability
from cisray.baselines.windows import Windows
from cisray.baselines.word_importance import all_words, change_without_words, loss_without_words
from cisray.bundle import Predictor
from cisray.datasets.card import Card, Inputs, read_card
from cisray.datasets.schema import decode_examples, iter_examples, layout_of, to_float, verify_dataset
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.cluster import cluster
from cisray.flows.evaluate import check_fits, check_unseen
from cisray.flows.importance_job import ImportanceJob, Measure
from cisray.flows.shards import Receipt, Task, open_staging, run_tasks
from cisray.flows.visibility import check_visible
from cisray.progress import Report, silent
from cisray.training.batches import cut_windows
from cisray.training.metrics import DEFINITIONS

_OF_TABLES = ("shuffled", "removed", "stability")  # which need a model that reads a table of features
_OF_WORDS = ("words", "change")
_AT_ONCE = {"shuffled": 64, "removed": 8, "words": 16, "change": 16}  # features, or words, of one task
_READ_ROWS = 1024


class _Held(NamedTuple):
    """The windows of a split."""

    stored: Windows
    """Codes [B, L], and targets [B, N, T] as a network learns them."""
    natural: Windows
    """The same with targets on the tracks' own scale."""

    @property
    def table(self) -> Windows:
        """The stored ones with targets [B, T], of a model that predicts one bin."""
        return Windows(self.stored.codes, self.stored.targets[:, 0])


class _Measurer:
    """Takes measures of one model, in one process; splits are read when they are asked for, and held."""

    def __init__(self, job: ImportanceJob) -> None:
        torch.set_num_threads(max(1, int(job.cluster.cpus_per_actor)))
        self._job = job
        self._card = read_card(Path(job.dataset))
        self._predictor = Predictor(job.model, head=job.head)
        self._splits: dict[str, _Held] = {}

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Take one measure of some features or words; the facts are the accuracy of the whole model."""
        by: Measure = values["by"]
        tracks = self._card.track_names
        if by == "stability":
            found = stability(*self._fitted_on(), **self._settings(), resamples=self._job.resamples)
            return stability_rows(found, tracks), _stability_facts(found)
        importance = self._measure(by, values["names"])
        facts = {"sort": importance.sort, "measure": importance.measure, "accuracy": plain_values(importance.accuracy)}
        return importance_rows(by, importance, tracks), facts

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one task's rows."""
        pq.write_table(table, path, compression="zstd")

    def _measure(self, by: Measure, names: Groups | Sequence[str]) -> Importance:
        network, job = self._predictor.network, self._job
        if by == "coefficients":
            assert isinstance(network, ShallowModel)
            return coefficients(network)
        if by in _OF_WORDS:
            held, words = self._split(job.split).natural, list(names)
            if by == "change":
                return change_without_words(self._read, held.codes, words)
            return loss_without_words(self._read, held, words, kind=self._card.kind)
        assert isinstance(names, dict)
        table = self._split(job.split).table
        if by == "shuffled":
            assert isinstance(network, TableModel)
            return loss_when_shuffled(network, table, **self._settings(), groups=names, repeats=job.repeats)
        return loss_when_removed(*self._fitted_on(), table, **self._settings(), groups=names)

    def _settings(self) -> dict[str, Any]:
        return {"kind": self._card.kind, "seed": self._job.seed}

    def _fitted_on(self) -> tuple[TableModel, Windows, Windows]:
        assert isinstance(self._predictor.network, TableModel)
        return self._predictor.network, self._split("train").table, self._split("valid").table

    def _split(self, split: str) -> _Held:
        if split not in self._splits:
            self._splits[split] = read_split(Path(self._job.dataset), self._card, split)
        return self._splits[split]

    def _read(self, codes: Codes) -> NDArray[np.floating]:
        """Predict windows on the tracks' own scale, [B, L] to [B, N, T]."""
        predict = self._predictor.reading(self._job.strands)
        parts = [predict(part).cpu().numpy() for part in torch.from_numpy(codes).split(self._job.batch_size)]
        return np.concatenate(parts)


def importance(job: ImportanceJob, *, report: Report = silent) -> Path:
    """Take the job's measures, or go on with them, and return the folder of the table.

    Raises:
        InputError: model and dataset do not belong together, the model has learned what it would be measured on, or
            a measure is not of its kind.
    """
    out = Path(job.out).absolute()
    job = dataclasses.replace(job, model=str(Path(job.model).absolute()), dataset=str(Path(job.dataset).absolute()))
    card, predictor = read_card(Path(job.dataset)), Predictor(job.model, head=job.head)
    if card.inputs != Inputs():
        raise InputError(f"{card.name}: its rows hold more inputs than one sequence, which no model here reads")
    check_fits(predictor, card)
    check_unseen(predictor, card, job.split)
    measures = job.by or default_measures(predictor.network)
    tasks = plan_tasks(job, measures, predictor.network)
    plan = _plan(job, measures, card, predictor)
    staging = open_staging(out, plan)
    if staging is None:
        return out
    verify_dataset(Path(job.dataset), card)
    with cluster(job.cluster):
        check_visible([Path(job.dataset), Path(job.model)], staging.path, need=job.cluster.need)
        receipts = run_tasks(
            tasks, partial(_Measurer, job), staging=staging, cluster=job.cluster, stage="importance", report=report
        )
    files: dict[str, list[Path]] = {
        by: [staging.path / task.file for task in tasks if task.values["by"] == by] for by in measures
    }
    write_table(staging.path / TABLE_NAME, files)
    taken = {by: _summary([receipts[task.name] for task in tasks if task.values["by"] == by], card) for by in measures}
    write_json(
        staging.path / IMPORTANCE_NAME,
        {
            "model": {"path": predictor.path.name, "architecture": predictor.config.architecture},
            "dataset": card.name,
            "num_windows": card.counts[job.split],
            "measures": taken,
            "definitions": {METRICS[card.kind]: DEFINITIONS[METRICS[card.kind]]},
            "unseen": _how_unseen(predictor, card),
            "settings": plan,
        },
    )
    staging.finish()
    return out


def default_measures(network: nn.Module) -> tuple[Measure, ...]:
    """Return what is measured of a model where nothing is named."""
    if isinstance(network, TableModel):
        return "shuffled", "coefficients"
    return ("words", "coefficients") if isinstance(network, ShallowModel) else ("words", "change")


def plan_tasks(job: ImportanceJob, measures: Sequence[Measure], network: nn.Module) -> list[Task]:
    """Return the tasks of all measures, each of some features or words.

    Raises:
        InputError: a measure is not of this kind of model, or a group or word is none.
    """
    tasks = []
    for by in measures:
        names: Groups | Sequence[str] = {}
        if by in _OF_TABLES and not isinstance(network, TableModel):
            raise InputError(
                f"by={by}: needs a model that reads a table of features; measure this one by "
                f"{', '.join(default_measures(network))}"
            )
        if by == "coefficients" and not isinstance(network, ShallowModel):
            raise InputError("by=coefficients: a network has none of features; measure it by words or change")
        if by in _OF_WORDS:
            names = list(job.words) or all_words(job.word_bp)
        elif by in ("shuffled", "removed"):
            assert isinstance(network, TableModel)
            names = _groups(job, network.features.names)
        every = list(names)
        size = _AT_ONCE.get(by, 1)
        for number, first in enumerate(range(0, max(1, len(every)), size)):
            some = every[first : first + size]
            values = {"by": by, "names": {name: names[name] for name in some} if isinstance(names, dict) else some}
            tasks.append(Task(f"{by}-{number:05d}", f"parts/{by}-{number:05d}.parquet", values))
    return tasks


def _groups(job: ImportanceJob, names: Sequence[str]) -> dict[str, list[str]]:
    if job.groups == "each":
        return {name: [name] for name in names}
    return groups_of_sets(names) if job.groups == "sets" else groups_by_pattern(names, dict(job.groups))


def read_split(dataset_dir: Path, card: Card, split: str) -> _Held:
    """Hold the windows of a split: L + 8 N T bytes each."""
    parts = [
        decode_examples(rows, layout_of(card))
        for rows in iter_examples(dataset_dir, card, split, batch_size=_READ_ROWS)
    ]
    codes = torch.from_numpy(np.concatenate([part.codes for part in parts]))
    windows = cut_windows(codes, margin_bp=card.geometry.margin_bp).contiguous().numpy()
    stored = to_float(np.concatenate([part.targets for part in parts]))
    natural = to_natural(stored.astype(np.float64), card.transforms()).astype(np.float32)
    return _Held(Windows(windows, stored), Windows(windows, natural))


def _stability_facts(found: Stability) -> dict[str, Any]:
    measure = "mean weight over fits to halves of the training split, its deviation, and the share of fits that read it"
    return {
        "sort": found.sort,
        "measure": measure,
        "accuracy": None,
        "rank_correlation": plain_values(found.rank_correlation),
    }


def _summary(receipts: Sequence[Receipt], card: Card) -> dict[str, Any]:
    """Say what a measure is, and how accurate the whole model is by track; every task of it says the same."""
    facts = receipts[0].facts
    named = {"sort": facts["sort"], "measure": facts["measure"], "num_rows": sum(one.rows for one in receipts)}
    for name in ("accuracy", "rank_correlation"):
        if facts.get(name) is not None:
            named[name] = dict(zip(card.track_names, facts[name], strict=True))
    return named


def _how_unseen(predictor: Predictor, card: Card) -> str:
    """Say by what the windows are known not to have been learned."""
    if card.digest in [of_head.digest for of_head in predictor.cards.values()]:
        return "another split of the dataset that the model learned from"
    if card.genome is not None and all(of_head.genome is not None for of_head in predictor.cards.values()):
        return "regions of the genome that the model has not learned from"
    return "not known: the dataset is not the one that the model learned from, and has no loci to compare"


def _plan(job: ImportanceJob, measures: Sequence[Measure], card: Card, predictor: Predictor) -> dict[str, Any]:
    """Return what makes the measures other ones: neither where files stand, nor on what machines it runs."""
    asked = dataclasses.asdict(job)
    for name in ("model", "dataset", "out", "cluster"):
        del asked[name]
    digests = {"model": predictor.digest, "dataset": card.digest}
    return asked | {"by": list(measures), "digests": digests, "cisray": __version__}
