"""What MLflow is told: runs, their lineage, and the registry of bundles; `mlflow_store` says how."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import mlflow.pyfunc
import mlflow.tracking.fluent
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from cisray.addresses import refuse_passwords
from cisray.errors import BusyError, InputError
from cisray.files import value_digest
from cisray.mlflow_store import (
    PATIENCE_S,
    Delivery,
    PatientClient,
    answered,
    connect,
    defined,
    experiment_id_of,
    parameters,
    reached,
    shown_store,
    tell,
)
from cisray.outbox import Outbox, Record, StoreAwayError, read_kept
from cisray.progress import Progress

CHAMPION = "champion"
DECIDING_METRIC = "valid.pearson"
DATASET_TAG = "dataset.digest"
BUNDLE_TAG = "bundle.digest"
RESUME_TAG = "cisray.resume"
SYSTEM_METRICS_S = 5


class Registered(NamedTuple):
    """A model version, and what it is to the champion."""

    name: str
    version: str
    is_champion: bool
    verdict: str
    """In words, for a person."""


def is_registered(digest: str) -> bool:
    """Say whether a bundle is a version of some registered model."""
    return bool(connect().search_model_versions(f"tags.`{BUNDLE_TAG}` = '{digest}'"))


class TrackedRun:
    """One MLflow run, told what happens through `report`; a store that goes away holds up nothing but `register`."""

    def __init__(self, client: PatientClient, delivery: Delivery, outbox: Outbox, name: str = "") -> None:
        self._client, self._delivery, self._outbox, self._name = client, delivery, outbox, name
        self._children: dict[str, TrackedRun] = {}

    @property
    def run_id(self) -> str:
        """MLflow's identifier."""
        return answered(partial(self._delivery.run_id, self._name))

    def report(self, progress: Progress) -> None:
        """Log the figures of a step; a flow's `report`."""
        if progress.figures:
            self.log_metrics(progress.figures, step=progress.done)

    def log_metrics(self, metrics: Mapping[str, float | None], *, step: int = 0) -> None:
        """Log final figures; those that are not defined are left out."""
        self._put("metrics", metrics=defined(metrics), step=step)

    def log_dataset(self, dataset_dir: Path, *, name: str, digest: str, context: str) -> None:
        """Say which dataset the run used, by the digest of its card."""
        with warnings.catch_warnings(action="ignore"):  # a path fits two of MLflow's sources, which are one class
            source = resolve_dataset_source(str(dataset_dir))
        # MLflow keeps 36 letters of a digest; the tag holds all of it.
        answered(partial(mlflow.log_input, MetaDataset(source, name=name, digest=digest[:36]), context=context))
        self._client.set_tag(self.run_id, DATASET_TAG, digest)

    def log_file(self, path: Path, *, under: str) -> None:
        """Keep a file with the run."""
        self._put("file", path=str(path.absolute()), under=under)

    def log_folder(self, folder: Path, *, under: str) -> None:
        """Keep a folder's files with the run."""
        self._put("folder", path=str(folder.absolute()), under=under)

    def child(self, name: str, *, settings: Mapping[str, Any]) -> "TrackedRun":
        """Return the run of that name nested in this one, made when first asked for; it stays open until `end`."""
        if name not in self._children:
            self._children[name] = TrackedRun(self._client, self._delivery, self._outbox, name)
            self._children[name]._put("begin", **parameters(settings))
        return self._children[name]

    def end(self, *, failure: str = "") -> None:
        """Close a nested run, with the reason if it failed; one that was closed stays as it is."""
        self._put("end", failure=failure)

    def close(self, status: str) -> None:
        """End the run itself; what the store does not take in time is kept beside the output."""
        if not self._outbox.send_within(PATIENCE_S if status == "FINISHED" else 0):
            if status == "FINISHED":
                self.end()
            number = self._outbox.keep()
            tell(
                f"MLflow at {shown_store()} did not answer to the end: {number:,} records of this run wait in "
                f"{self._outbox.path}; once it answers, run the same command again, which sends them"
            )
        try:
            with reached():
                mlflow.end_run(status)
        except StoreAwayError:
            pass  # told above; the run stays open, and is taken up again

    def _put(self, kind: Any, **values: Any) -> None:
        self._outbox.put(Record(self._name, kind, values, time.time_ns() // 1_000_000))

    def register(self, bundle_dir: Path, *, name: str, digest: str, dataset_digest: str, metric: float) -> Registered:
        """Register a bundle as a model version; the champion changes only for a better validation metric.

        Metrics of different datasets do not compare: then the champion stays, and a person decides. A metric that is
        not a number is never better. Raises InputError where the store does not answer; the bundle is not lost by it.
        """
        if not self._outbox.send_within(PATIENCE_S):
            raise InputError(
                f"{bundle_dir}: made, but not registered: MLflow at {shown_store()} does not answer; once it does, run "
                "the same command again, which makes nothing anew, tells MLflow what it has missed, and registers"
            )
        made = partial(
            mlflow.pyfunc.log_model,
            name="bundle",
            loader_module="cisray.bundle",
            data_path=str(bundle_dir),
            pip_requirements=["cisray"],
            model_config={"head": None},  # MLflow lets whoever loads the model change only what stands here
        )
        model = answered(made)
        self._make_model(name)
        version = str(
            self._client.create_model_version(name, model.model_uri, self.run_id, model_id=model.model_id).version
        )
        self._client.set_model_version_tag(name, version, DATASET_TAG, dataset_digest)
        self._client.set_model_version_tag(name, version, DECIDING_METRIC, str(metric))
        verdict, takes_over = self._compare(name, metric, dataset_digest)
        if takes_over:
            self._client.set_registered_model_alias(name, CHAMPION, version)
        # last: it says that a bundle is registered, and a run that dies before it registers again
        self._client.set_model_version_tag(name, version, BUNDLE_TAG, digest)
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
    refuse_passwords(settings, source=str(job_path or experiment))
    send_kept(out)
    client = connect()
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_S)
    experiment_id = experiment_id_of(client, experiment)
    run_id = _find_open(client, experiment_id, out, settings)
    tags = {"cisray.out": str(out), RESUME_TAG: _resume_digest(out, settings), "cisray.kind": kind}
    begin = partial(mlflow.start_run, run_id, experiment_id, f"{kind} {out.name}", tags=tags, log_system_metrics=True)
    started = answered(begin)
    run = started.info
    delivery = Delivery(client.once, run.run_id)
    outbox = Outbox(
        delivery, path=_kept_path(out), run_id=run.run_id, tell=tell, is_back=partial(_watch_machine, run.run_id)
    )
    tracked, status = TrackedRun(client, delivery, outbox), "FAILED"
    try:
        if not started.data.params:
            answered(partial(mlflow.log_params, parameters(settings)))
        if job_path is not None:
            answered(partial(mlflow.log_artifact, str(job_path), "job"))
        yield tracked
        status = "FINISHED"
    except BusyError:
        if run_id is not None:  # of the process that is at work
            status = "RUNNING"
        raise
    finally:
        tracked.close(status)


def is_left_open(experiment: str, *, out: Path, settings: Mapping[str, Any]) -> bool:
    """Say whether a run that made `out` was killed before it told MLflow all."""
    client = connect()
    return _find_open(client, experiment_id_of(client, experiment), out, settings) is not None


def _find_open(client: PatientClient, experiment_id: str, out: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the run under way that makes `out`, or was killed while it did."""
    resume = _resume_digest(out, settings)
    asked = f"tags.`{RESUME_TAG}` = '{resume}' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment_id], asked, max_results=1)
    return found[0].info.run_id if found else None


def _resume_digest(out: Path, settings: Mapping[str, Any]) -> str:
    return value_digest({"out": str(out), "settings": settings})  # a digest needs no quoting


def _watch_machine(run_id: str) -> None:
    """Have the machine's own metrics logged again: MLflow's thread for them ends with the first call that fails."""
    monitors = mlflow.tracking.fluent.run_id_to_system_metrics_monitor
    if run_id in monitors and not monitors[run_id]._process.is_alive():
        monitors[run_id] = SystemMetricsMonitor(run_id, resume_logging=True)
        monitors[run_id].start()


def send_kept(out: Path) -> int:
    """Tell MLflow what a run that made `out` could not, and return the number of records; 0 where nothing was kept.

    Raises:
        InputError: the store does not answer, or does not know the run.
    """
    path = _kept_path(out)
    if not path.exists():
        return 0
    run_id, records = read_kept(path)
    client, number = connect(), len(records)
    try:
        client.get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"{path}: waits for a run that {shown_store()} does not know; set MLFLOW_TRACKING_URI to the store that "
            f"does, or remove the file: {error}"
        ) from None
    deliver = Delivery(client.once, run_id)
    while records:
        del records[: answered(partial(deliver, records))]
    path.unlink()
    return number


def _kept_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.unrecorded.jsonl")


def record_evaluation(digest: str, metrics: Mapping[str, float | None]) -> str | None:
    """Add test figures to the run that trained a bundle, and return it if known: recorded, never selected on."""
    client = connect()
    versions = client.search_model_versions(f"tags.`{BUNDLE_TAG}` = '{digest}'")
    if not versions:
        return None
    run_id = str(versions[0].run_id)
    record = Record("", "metrics", {"metrics": defined(metrics), "step": 0}, time.time_ns() // 1_000_000)
    answered(partial(Delivery(client.once, run_id), [record]))
    return run_id
