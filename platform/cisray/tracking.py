"""The only file that imports MLflow: runs, their lineage, and the registry of bundles.

MLFLOW_TRACKING_URI names the store; without it, runs/mlflow.db in the working directory, made on first use.
"""

import fcntl
import logging
import math
import os
import re
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from cisray.bundle import WEIGHTS_NAME, bundle_digest, read_cards
from cisray.config import flatten
from cisray.errors import InputError
from cisray.files import value_digest
from cisray.progress import Progress
from cisray.scoring.manifest import ModelSource

DEFAULT_STORE = Path("runs/mlflow.db")
CHAMPION = "champion"
DECIDING_METRIC = "valid.pearson"
DATASET_TAG = "dataset.digest"
BUNDLE_TAG = "bundle.digest"
RESUME_TAG = "cisray.resume"
PARENT_TAG = "mlflow.parentRunId"
FAILURE_TAG = "cisray.failure"
# MLflow writes longer values to no store.
MOST_VALUE_LETTERS = 500
SYSTEM_METRICS_S = 5


class Registered(NamedTuple):
    """A model version, and what it is to the champion."""

    name: str
    version: str
    is_champion: bool
    verdict: str
    """In words, for a person."""


class FetchedModel(NamedTuple):
    """A model on this machine."""

    bundle_dir: Path
    uri: str
    version: str | None
    """None where a path was given and not a registered model."""


def store_uri() -> str:
    """Return the address of the tracking store and registry."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE.absolute()}"


def _database_path(uri: str) -> Path | None:
    """Return the file of a local store, beside which artifacts lie; None for a server."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def shown_store() -> str:
    """Return the store's address without a user's name and password, for a terminal or a log."""
    return re.sub(r"//[^/@]*@", "//", store_uri())


def is_registered(digest: str) -> bool:
    """Say whether a bundle is a version of some registered model."""
    return bool(_client().search_model_versions(f"tags.`{BUNDLE_TAG}` = '{digest}'"))


def _client() -> MlflowClient:
    uri = store_uri()
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if database := _database_path(uri):
        _prepare(database, uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(uri)


def _prepare(database: Path, uri: str) -> None:
    """Make a local store's tables where there are none, one process at a time: MLflow's own migrations would meet."""
    if database.exists():
        with closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
            if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                return  # set last, below
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        MlflowClient(uri).search_experiments(max_results=1)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    database = _database_path(store_uri())
    artifacts = (database.parent / "mlartifacts").as_uri() if database else None
    try:
        return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException:  # another process has made it in the meantime
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found.experiment_id


class TrackedRun:
    """One MLflow run, told what happens through `report`."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def report(self, progress: Progress) -> None:
        """Log the figures of a step; a flow's `report`."""
        for name, value in progress.figures.items():
            self._client.log_metric(self.run_id, _metric_name(name), value, step=progress.done)

    def log_metrics(self, metrics: Mapping[str, float | None], *, step: int = 0) -> None:
        """Log final figures; those that are not defined are left out."""
        for name, value in metrics.items():
            if value is not None:
                self._client.log_metric(self.run_id, _metric_name(name), value, step=step)

    def log_dataset(self, dataset_dir: Path, *, name: str, digest: str, context: str) -> None:
        """Say which dataset the run used, by the digest of its card."""
        with warnings.catch_warnings(action="ignore"):  # a path fits two of MLflow's sources, which are one class
            source = resolve_dataset_source(str(dataset_dir))
        # MLflow keeps 36 letters of a digest; the tag holds all of it.
        mlflow.log_input(MetaDataset(source, name=name, digest=digest[:36]), context=context)
        self._client.set_tag(self.run_id, DATASET_TAG, digest)

    def log_file(self, path: Path, *, under: str) -> None:
        """Keep a file with the run."""
        self._client.log_artifact(self.run_id, str(path), under)

    def child(self, name: str, *, settings: Mapping[str, Any]) -> "TrackedRun":
        """Return the run of that name nested in this one, made when first asked for; it stays open until `end`."""
        experiment_id = self._client.get_run(self.run_id).info.experiment_id
        of_name = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.run_name = '{name}'"
        if found := self._client.search_runs([experiment_id], of_name, max_results=1):
            return TrackedRun(self._client, found[0].info.run_id)
        run_id = self._client.create_run(experiment_id, run_name=name, tags={PARENT_TAG: self.run_id}).info.run_id
        params = [Param(key, str(value)[:MOST_VALUE_LETTERS]) for key, value in flatten(settings).items()]
        self._client.log_batch(run_id, params=params)
        return TrackedRun(self._client, run_id)

    def end(self, *, failure: str = "") -> None:
        """Close a nested run, with the reason if it failed; one that was closed stays as it is."""
        if self._client.get_run(self.run_id).info.status != "RUNNING":
            return
        if failure:
            self._client.set_tag(self.run_id, FAILURE_TAG, failure[:MOST_VALUE_LETTERS])
        self._client.set_terminated(self.run_id, "FAILED" if failure else "FINISHED")

    def log_folder(self, folder: Path, *, under: str) -> None:
        """Keep a folder's files with the run."""
        self._client.log_artifacts(self.run_id, str(folder), under)

    def register(self, bundle_dir: Path, *, name: str, digest: str, dataset_digest: str, metric: float) -> Registered:
        """Register a bundle as a model version; the champion changes only for a better validation metric.

        Metrics of different datasets do not compare: then the champion stays, and a person decides. A metric that is
        not a number is never better.
        """
        model = mlflow.pyfunc.log_model(
            name="bundle",
            loader_module="cisray.bundle",
            data_path=str(bundle_dir),
            pip_requirements=["cisray"],
            model_config={"head": None},  # MLflow lets whoever loads the model change only what stands here
        )
        self._make_model(name)
        version = str(
            self._client.create_model_version(name, model.model_uri, self.run_id, model_id=model.model_id).version
        )
        self._client.set_model_version_tag(name, version, BUNDLE_TAG, digest)
        self._client.set_model_version_tag(name, version, DATASET_TAG, dataset_digest)
        self._client.set_model_version_tag(name, version, DECIDING_METRIC, str(metric))
        verdict, takes_over = self._compare(name, metric, dataset_digest)
        if takes_over:
            self._client.set_registered_model_alias(name, CHAMPION, version)
        return Registered(name, version, takes_over, verdict)

    def _make_model(self, name: str) -> None:
        """Make a registered model where there is none of that name."""
        if self._client.search_registered_models(f"name = '{name}'"):
            return
        try:
            self._client.create_registered_model(name)
        except MlflowException:  # another process has made it in the meantime
            if not self._client.search_registered_models(f"name = '{name}'"):
                raise

    def _compare(self, name: str, metric: float, dataset_digest: str) -> tuple[str, bool]:
        """Say in words what a new version is to the champion, and whether it takes its place."""
        champion = self._client.get_registered_model(name).aliases.get(CHAMPION)
        if champion is None:
            return "is the champion, being the first", True
        tags = self._client.get_model_version(name, str(champion)).tags
        if tags.get(DATASET_TAG) != dataset_digest:
            return f"learned from another dataset than the champion, version {champion}, which stays", False
        best = float(tags.get(DECIDING_METRIC, "nan"))
        if metric > best or (math.isnan(best) and not math.isnan(metric)):
            return f"is the champion now: better than version {champion}, which had {best:.4f}", True
        return f"is not better than the champion, version {champion} with {best:.4f}, which stays", False


@contextmanager
def tracked_run(
    experiment: str, *, kind: str, out: Path, settings: Mapping[str, Any], job_path: Path | None
) -> Iterator[TrackedRun]:
    """Open a run, or the one that was killed while it made `out`; its status says how it ended."""
    client = _client()
    experiment_id = _experiment_id(client, experiment)
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_S)
    resume = value_digest({"out": str(out), "settings": settings})  # a digest needs no quoting
    unfinished = client.search_runs(
        [experiment_id], f"tags.`{RESUME_TAG}` = '{resume}' and attributes.status = 'RUNNING'", max_results=1
    )
    run_id = unfinished[0].info.run_id if unfinished else None
    with mlflow.start_run(run_id, experiment_id, run_name=f"{kind} {out.name}", log_system_metrics=True) as run:
        tracked = TrackedRun(client, run.info.run_id)
        client.set_tag(run.info.run_id, "cisray.out", str(out))
        client.set_tag(run.info.run_id, RESUME_TAG, resume)
        client.set_tag(run.info.run_id, "cisray.kind", kind)
        if run_id is None:
            flat = {name: str(value)[:MOST_VALUE_LETTERS] for name, value in flatten(settings).items()}
            mlflow.log_params(flat)
        if job_path is not None:
            mlflow.log_artifact(str(job_path), "job")
        yield tracked


def fetch_model(address: str) -> FetchedModel:
    """Return a bundle by its folder, or by a registered model's address.

    Raises:
        InputError: there is no such folder, model, version or alias.
    """
    if not address.startswith("models:/"):
        path = Path(address).absolute()
        if not (path / "model.json").exists():
            raise InputError(
                f"{path}: not a bundle (no model.json in it); train one, or name a registered model, "
                "such as models:/NAME@champion"
            )
        return FetchedModel(path, address, None)
    client = _client()
    try:
        name, version = _resolve(client, address)
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")
    except (MlflowException, ValueError) as error:
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise InputError(f"{address}: no such model in {shown_store()} (registered: {known}): {error}") from None
    bundles = sorted(Path(folder).rglob(WEIGHTS_NAME))
    if len(bundles) != 1:
        raise InputError(f"{address}: holds {len(bundles)} bundles; wanted one that cisray train registered")
    return FetchedModel(bundles[0].parent, address, version)


def fetch_models(addresses: Sequence[str], *, head: str | None = None) -> dict[Path, ModelSource]:
    """Return bundles by their folders, in order, each with what a score table says of it.

    Args:
        addresses: as for `fetch_model`; the first is the model, the others are of its ensemble.
        head: of models with several heads, the one that predicts.

    Raises:
        InputError: what `fetch_model` raises; a model is named twice.
    """
    sources: dict[Path, ModelSource] = {}
    for address in addresses:
        fetched = fetch_model(address)
        if fetched.bundle_dir in sources:
            raise InputError(f"{address}: is among the models twice; name each once")
        cards = read_cards(fetched.bundle_dir)
        card = cards[head] if head in cards else next(iter(cards.values()))
        held_out = tuple(
            contig
            for contig, length in card.genome_for("scoring").contig_lengths.items()
            if f"{contig}:0-{length}" in card.regions["test"]
        )
        sources[fetched.bundle_dir] = ModelSource(
            uri=fetched.uri,
            digest=bundle_digest(fetched.bundle_dir),
            version=fetched.version,
            held_out_contigs=held_out,
        )
    return sources


def keep_calibration(bundle_dir: Path, card_path: Path) -> list[str]:
    """Put a calibration beside every registered version of its bundle, and return their addresses."""
    client, kept = _client(), []
    for version in client.search_model_versions(f"tags.`{BUNDLE_TAG}` = '{bundle_digest(bundle_dir)}'"):
        address = f"models:/{version.name}/{version.version}"
        registered = fetch_model(address).bundle_dir
        if registered != bundle_dir:
            with tempfile.TemporaryDirectory() as folder:
                for path in card_path.parent.glob(f"{card_path.stem}.*"):
                    shutil.copy(path, folder)
                place = f"data/{registered.name}/{card_path.parent.name}"
                client.log_model_artifacts(version.source.removeprefix("models:/"), folder, place)
        kept.append(address)
    return kept


def _resolve(client: MlflowClient, address: str) -> tuple[str, str]:
    """Split models:/NAME@ALIAS or models:/NAME/VERSION into name and version."""
    rest = address.removeprefix("models:/")
    if "@" in rest:
        name, alias = rest.split("@", 1)
        return name, str(client.get_model_version_by_alias(name, alias).version)
    name, _, version = rest.rpartition("/")
    if not name or not version.isdigit():
        raise ValueError("wanted models:/NAME@ALIAS or models:/NAME/VERSION")
    return name, version


def record_evaluation(digest: str, metrics: Mapping[str, float | None]) -> str | None:
    """Add test figures to the run that trained a bundle, and return it if known: recorded, never selected on."""
    client = _client()
    versions = client.search_model_versions(f"tags.`{BUNDLE_TAG}` = '{digest}'")
    if not versions:
        return None
    run_id = versions[0].run_id
    TrackedRun(client, run_id).log_metrics(metrics)
    return run_id


def _metric_name(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, and a few signs."""
    return "".join(letter if letter.isalnum() or letter in "_-./ :" else "_" for letter in name)
