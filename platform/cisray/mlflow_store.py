"""The MLflow store: where it is, what is tried again while it does not answer, and how it is told what a run measures.

MLFLOW_TRACKING_URI names it; without that, runs/mlflow.db in the working directory, made on first use. `tracking` says
what is told; these two alone import MLflow.
"""

import fcntl
import itertools
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from cisray.addresses import move_login, redacted
from cisray.config import flatten
from cisray.errors import InputError
from cisray.outbox import RETRY_S, Record, StoreAwayError

DEFAULT_STORE = Path("runs/mlflow.db")
PARENT_TAG = "mlflow.parentRunId"
FAILURE_TAG = "cisray.failure"
# MLflow writes longer values to no store, and takes no more metrics at once.
MOST_VALUE_LETTERS = 500
MOST_METRICS = 1000
PATIENCE_S = 60.0
"""A store that does not answer where an answer is needed is asked again for so long."""
_AWAY_STATUS = (429, 502, 503, 504)
_REFUSED_STATUS = (401, 403)
T = TypeVar("T")


class LoginRefusedError(StoreAwayError):
    """The store answers, and lets this user do nothing."""


def store_uri() -> str:
    """Return the address of the tracking store and registry."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE.absolute()}"


def shown_store() -> str:
    """Return the store's address without a user's name and password, for a terminal or a log."""
    return redacted(store_uri())


def _database_path(uri: str) -> Path | None:
    """Return the file of a local store, beside which artifacts lie; None for a server."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def tell(text: str) -> None:
    """Say to whoever started the job what they should know of the store."""
    print(f"cisray: {text}", file=sys.stderr, flush=True)


@contextmanager
def reached() -> Iterator[None]:
    """Turn what MLflow raises while its store does not answer into StoreAwayError."""
    try:
        yield
    except MlflowException as error:
        cause = error.__cause__ or error.__context__
        status = error.get_http_status_code()
        if not isinstance(cause, requests.RequestException) and status not in (*_AWAY_STATUS, *_REFUSED_STATUS):
            raise
        told = redacted(" ".join(str(error).split()))[:200]
        if status in _REFUSED_STATUS:
            raise LoginRefusedError(
                f"MLflow at {shown_store()} refuses this user ({told}); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        raise StoreAwayError(f"MLflow at {shown_store()} does not answer ({told})") from None


def answered(call: Callable[[], T]) -> T:
    """Return what a call of MLflow returns, tried again while the store is away; raise InputError in the end."""
    end, is_told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            with reached():
                return call()
        except LoginRefusedError as error:
            raise InputError(str(error)) from None
        except StoreAwayError as error:
            if time.monotonic() >= end:
                raise InputError(
                    f"{error}; start it, or correct MLFLOW_TRACKING_URI, and run the same command again: it goes on "
                    "from what is there"
                ) from None
            if not is_told:
                tell(f"{error}; trying again for {PATIENCE_S:.0f} s")
            is_told = True
        time.sleep(RETRY_S)


class PatientClient:
    """A client whose calls are tried again while the store does not answer."""

    def __init__(self, client: MlflowClient) -> None:
        self.once = client
        """The same client; a call of it fails at once."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *values, **named: answered(partial(getattr(self.once, name), *values, **named))


def connect() -> PatientClient:
    """Return a client of the store; a local one is made on first use."""
    # how often and how long to try again is decided here
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = move_login(store_uri(), os.environ)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # else it tells of every store that is away
    if database := _database_path(uri):
        _prepare(database, uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return PatientClient(MlflowClient(uri))


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


def experiment_id_of(client: PatientClient, name: str) -> str:
    """Return the identifier of an experiment, made where there is none of that name."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = _database_path(store_uri())
    artifacts = (database.parent / "mlartifacts").as_uri() if database else None
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:  # another process has made it in the meantime
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


class Delivery:
    """Tells MLflow what a run and those nested in it have to say."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_ids = {"": run_id}

    def __call__(self, records: Sequence[Record]) -> int:
        """Send the first of some records, with all metrics that follow; an Outbox's `deliver`."""
        first = records[0]
        with reached():
            if first.kind == "metrics":
                same = itertools.takewhile(lambda one: one[:2] == first[:2], records[:MOST_METRICS])
                return self._send_metrics(list(same))
            if first.kind == "begin":
                self._begin(first)
            elif first.kind == "end":
                self._end(first)
            elif first.kind == "file":
                self._client.log_artifact(self.run_id(first.run), first.values["path"], first.values["under"])
            else:
                self._client.log_artifacts(self.run_id(first.run), first.values["path"], first.values["under"])
        return 1

    def run_id(self, name: str) -> str:
        """Return the identifier of a nested run that has begun; "" names the run itself."""
        if name not in self._run_ids:
            self._run_ids[name] = self._find(name).info.run_id
        return self._run_ids[name]

    def _find(self, name: str) -> Any:
        """Return the nested run of a name; None where there is none."""
        parent = self._client.get_run(self._run_ids[""]).info
        of_name = f"tags.`{PARENT_TAG}` = '{parent.run_id}' and attributes.run_name = '{name}'"
        return next(iter(self._client.search_runs([parent.experiment_id], of_name, max_results=1)), None)

    def _begin(self, record: Record) -> None:
        run = self._find(record.run)
        if run is None:
            parent = self._client.get_run(self._run_ids[""]).info
            tags = {PARENT_TAG: parent.run_id}
            run = self._client.create_run(
                parent.experiment_id, start_time=record.time_ms, tags=tags, run_name=record.run
            )
        if not run.data.params:
            params = [Param(*pair) for pair in record.values.items()]
            self._client.log_batch(run.info.run_id, params=params)
        self._run_ids[record.run] = run.info.run_id

    def _send_metrics(self, records: list[Record]) -> int:
        run_id = self.run_id(records[0].run)
        metrics = [
            Metric(name, value, record.time_ms, record.values["step"])
            for record in records
            for name, value in record.values["metrics"].items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
        return len(records)

    def _end(self, record: Record) -> None:
        run_id, failure = self.run_id(record.run), record.values["failure"]
        run = self._client.get_run(run_id)
        goes_on = run.info.status == "FAILED" and not failure  # it was interrupted, and has come to its end since
        if run.info.status != "RUNNING" and not goes_on:
            return
        if failure:
            self._client.set_tag(run_id, FAILURE_TAG, failure[:MOST_VALUE_LETTERS])
        elif FAILURE_TAG in run.data.tags:
            self._client.delete_tag(run_id, FAILURE_TAG)
        self._client.set_terminated(run_id, "FAILED" if failure else "FINISHED", record.time_ms)


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as MLflow's parameters: by dotted names, and cut to the length that it takes."""
    return {name: str(value)[:MOST_VALUE_LETTERS] for name, value in flatten(settings).items()}


def defined(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return metrics that have values, by names that MLflow takes: letters, digits, and a few signs."""
    return {
        "".join(letter if letter.isalnum() or letter in "_-./ :" else "_" for letter in name): float(value)
        for name, value in metrics.items()
        if value is not None
    }
