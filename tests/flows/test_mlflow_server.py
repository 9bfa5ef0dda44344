"""An MLflow server on PostgreSQL, as the cluster runs it: many runs at once, outages, and what of it is seen.

The server takes its command and its settings from the template of the deployment.
"""

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from cisray import mlflow_store, tracking
from cisray.addresses import redacted
from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import build_network, bundle_digest, write_bundle
from cisray.config import load_job
from cisray.errors import InputError
from cisray.flows.train_job import TrainJob
from cisray.geometry import Geometry
from cisray.progress import Progress
from cisray.registry import fetch_model, keep_calibration
from cisray.tracking import is_registered, send_kept, tracked_run
from loopback import free_ports
from whole_program import JOBS

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),  # a server that starts on a busy machine takes minutes
    pytest.mark.skipif(not (shutil.which("postgres") and shutil.which("initdb")), reason="no PostgreSQL server here"),
]
DEPLOYMENT = Path(__file__).parents[2] / "infra" / "kubernetes" / "base" / "mlflow.yaml"
PASSWORD = "p" + secrets.token_hex(12)


def wait_until(is_so, process, log, *, seconds=300):
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.1)


def database_user():
    """PostgreSQL does not run as root: return whom it runs as, None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


@pytest.fixture(scope="module")
def database():
    """The address of a database that asks for a password."""
    folder, user = Path(tempfile.mkdtemp(prefix="cisray-")), database_user()
    (folder / "password").write_text(PASSWORD)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    options = {"cwd": folder, "user": user, "extra_groups": [] if user else None}
    subprocess.run(
        ["initdb", "--pgdata=data", "--username=mlflow", "--pwfile=password", "--auth=scram-sha-256", "--no-sync"],
        check=True,
        capture_output=True,
        **options,
    )
    (port,), log = free_ports(1), folder / "log"
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
    command = ["postgres", "-D", "data", *(f"--{name}={value}" for name, value in settings.items())]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **options)

    def ask(*line):
        command = ["psql", "--host=127.0.0.1", f"--port={port}", "--username=mlflow", "--dbname=postgres", *line]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    wait_until(lambda: ask("--command=SELECT 1"), process, log)
    assert ask("--command=CREATE DATABASE mlflow")
    yield f"127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
    process.wait(timeout=60)
    shutil.rmtree(folder)


class Server:
    """An MLflow server that can be killed and started again on the same port."""

    def __init__(self, database: str, folder: Path) -> None:
        (container,) = [
            one
            for document in yaml.safe_load_all(DEPLOYMENT.read_text())
            if document["kind"] == "Deployment"
            for one in document["spec"]["template"]["spec"]["containers"]
        ]
        given = {one["name"]: one.get("value", "") for one in container["env"]}
        given = {name: value for name, value in given.items() if name.startswith("MLFLOW_")}
        store = given["MLFLOW_BACKEND_STORE_URI"].replace("$(POSTGRES_PASSWORD)", PASSWORD)
        given["MLFLOW_BACKEND_STORE_URI"] = store.replace("postgres:5432", database)
        given["MLFLOW_ARTIFACTS_DESTINATION"] = str(folder / "artifacts")
        (self.port,), self.log, self.artifacts = free_ports(1), folder / "log", folder / "artifacts"
        self.uri, self._process = f"http://127.0.0.1:{self.port}", None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self._environment = kept | given
        values = {"--host": "127.0.0.1", "--port": self.port, "--workers": 1}
        words = [word.split("=")[0] for word in container["command"]]
        self._command = [f"{word}={values[word]}" if word in values else word for word in words]
        self._command[0] = str(Path(sys.executable).with_name("mlflow"))

    def start(self) -> None:
        with self.log.open("a") as out:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=out, stderr=out)
        wait_until(self.answers, self._process, self.log)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def send_signal(self, number: int) -> list[psutil.Process]:
        """Send a signal to it and to its workers, and return these."""
        workers = psutil.Process(self._process.pid).children(recursive=True)
        for process in (self._process, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return workers

    def kill(self) -> None:
        """End it at once, as a machine that goes down would."""
        workers = self.send_signal(signal.SIGKILL)
        self._process.wait(timeout=60)
        psutil.wait_procs(workers, timeout=60)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """The server of this module; a test that kills it starts it again."""
    one = Server(database, tmp_path_factory.mktemp("server"))
    try:
        one.start()
        yield one
    finally:
        one.kill()


@pytest.fixture
def shared_store(server, monkeypatch):
    """Have MLFLOW_TRACKING_URI name the server, with a login in it; return a client."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", f"://somebody:{PASSWORD}@"))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    return MlflowClient(server.uri)


EIGHT_AT_ONCE = """
import os, sys, time
from pathlib import Path

from cisray.progress import Progress
from cisray.tracking import tracked_run

STEPS, folder = 60, Path(sys.argv[1])

def run(number):
    (folder / f"ready-{number}").touch()
    while len(list(folder.glob("ready-*"))) < 8:
        time.sleep(0.01)
    settings = {"number": number, "training": {"epochs": 3}}
    kept = folder / f"kept-{number}.txt"
    kept.write_text(f"of {number}")
    with tracked_run("eight", kind="sweep", out=folder / f"out-{number}", settings=settings, job_path=None) as tracked:
        trial = tracked.child(f"trial {number}", settings=settings)
        for step in range(STEPS):
            figures = {"train.loss": number + step / 1000, "train.rate": float(step), "odd(name)": float("nan")}
            trial.report(Progress("train", step, STEPS, "steps", figures))
            tracked.report(Progress("trials", step, STEPS, "trials", {"done": step}))
        trial.end()
        tracked.log_metrics({f"test.pearson.{track}": track + number for track in range(2345)})
        tracked.log_file(kept, under="sweep")

children = []
for number in range(8):
    child = os.fork()
    if not child:
        try:
            run(number)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_eight_runs_at_once_lose_no_metric_no_parameter_and_no_artifact(server, shared_store, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", EIGHT_AT_ONCE, str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr == ""
    (experiment,) = [one for one in shared_store.search_experiments() if one.name == "eight"]
    runs = shared_store.search_runs([experiment.experiment_id])
    assert len(runs) == 16
    assert {run.info.status for run in runs} == {"FINISHED"}
    for number in range(8):
        (outer,) = [run for run in runs if run.info.run_name == f"sweep out-{number}"]
        (trial,) = [run for run in runs if run.info.run_name == f"trial {number}"]
        assert trial.data.tags["mlflow.parentRunId"] == outer.info.run_id
        for run in (outer, trial):
            assert run.data.params == {"number": str(number), "training.epochs": "3"}
        history = shared_store.get_metric_history(trial.info.run_id, "train.loss")
        assert sorted((one.step, one.value) for one in history) == [(n, number + n / 1000) for n in range(60)]
        for run, name in ((trial, "train.rate"), (outer, "done")):
            history = shared_store.get_metric_history(run.info.run_id, name)
            assert sorted((one.step, one.value) for one in history) == [(n, n) for n in range(60)]
        assert len(shared_store.get_metric_history(trial.info.run_id, "odd_name_")) == 60
        assert {name: value for name, value in outer.data.metrics.items() if name.startswith("test.")} == {
            f"test.pearson.{track}": track + number for track in range(2345)
        }
        local = shared_store.download_artifacts(outer.info.run_id, f"sweep/kept-{number}.txt", str(tmp_path))
        assert Path(local).read_text() == f"of {number}"
        assert outer.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert len(list(server.artifacts.rglob("kept-*.txt"))) == 8


def steps_of(store, run_id, name="train.loss"):
    return sorted((one.step, one.value) for one in store.get_metric_history(run_id, name))


def report(run, steps):
    for step in steps:
        run.report(Progress("train", step, 0, "steps", {"train.loss": step / 8}))


@pytest.fixture
def short_patience(monkeypatch):
    for module in (mlflow_store, tracking):
        monkeypatch.setattr(module, "PATIENCE_S", 2.0)


@pytest.fixture
def tiny_bundle(make_card, tmp_path):
    geometry = Geometry(window_bp=64, bin_bp=8)
    config = KmerRidgeConfig(k=2, contexts_bp=(8,))
    weights = build_network(config, geometry=geometry, num_tracks=3).state_dict()
    folder = tmp_path / "bundle"
    cards = make_card(geometry=geometry)
    write_bundle(folder, weights=weights, config=config, cards=cards, metrics={}, objective="poisson")
    return folder


def test_a_model_of_a_server_is_copied_once_to_where_all_machines_see_it(
    shared_store, tiny_bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "cache"))
    digest = bundle_digest(tiny_bundle)
    with tracked_run("fetched", kind="train", out=tmp_path / "fetched", settings={}, job_path=None) as run:
        run.register(tiny_bundle, name="fetched", digest=digest, dataset_digest="d", metric=0.5)
    fetched = fetch_model("models:/fetched@champion").bundle_dir
    assert fetched.is_relative_to(tmp_path / "cache" / "models")
    assert bundle_digest(fetched) == digest
    assert fetch_model("models:/fetched/1").bundle_dir == fetched
    (tiny_bundle / "calibrations").mkdir()
    card = tiny_bundle / "calibrations" / "background.json"
    card.write_text("{}")
    assert keep_calibration(tiny_bundle, card) == ["models:/fetched/1"]
    renewed = fetch_model("models:/fetched@champion").bundle_dir
    assert renewed != fetched
    assert (renewed / "calibrations" / "background.json").read_text() == "{}"


def test_a_server_that_hangs_holds_up_little_and_has_every_metric_when_it_goes_on(
    server, shared_store, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "hung"
    with tracked_run("outages", kind="train", out=out, settings={}, job_path=None) as run:
        run_id = run.run_id
        report(run, range(10))
        trial = run.child("trial 0", settings={"rate": 0.1})
        server.send_signal(signal.SIGSTOP)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.monotonic()
        report(run, range(10, 400))
        other = run.child("trial 1", settings={"rate": 0.2})
        report(other, range(50))
        other.end(failure="out of memory")
        trial.end()
        assert time.monotonic() - began < 30
        server.send_signal(signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    assert steps_of(shared_store, run_id) == [(step, step / 8) for step in range(400)]
    assert shared_store.get_run(run_id).info.status == "FINISHED"
    assert steps_of(shared_store, other.run_id) == [(step, step / 8) for step in range(50)]
    found = shared_store.get_run(other.run_id)
    assert (found.info.status, found.data.params) == ("FAILED", {"rate": "0.2"})
    assert found.data.tags["cisray.failure"] == "out of memory"
    assert shared_store.get_run(trial.run_id).info.status == "FINISHED"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2, told
    assert told[0].startswith(f"cisray: MLflow at {server.uri} does not answer (")
    assert told[0].endswith("; the work goes on, and what it measures is kept until it can be sent")
    assert "the store answers again, and has what was kept for it: " in told[1]
    assert not out.with_name("hung.unrecorded.jsonl").exists()


def test_a_server_that_is_gone_costs_no_output_and_the_same_command_records_it_later(
    server, shared_store, tmp_path, tiny_bundle, short_patience, capsys
):
    def train(first, last):
        with tracked_run("gone", kind="train", out=tmp_path / "model", settings={}, job_path=None) as run:
            report(run, range(first, last))
            begun.append(run.run_id)
            yield
            report(run, range(last, last + 5))
            digest = bundle_digest(tiny_bundle)
            registered = run.register(tiny_bundle, name="gone", digest=digest, dataset_digest="d", metric=0.5)
        yield registered

    def score():
        with tracked_run("gone", kind="score", out=tmp_path / "scores", settings={}, job_path=None) as run:
            begun.append(run.run_id)
            yield
            run.log_metrics({"rows": 7.0, "none": None})
            run.log_file(tmp_path / "page.html", under="scores")
        yield

    (tmp_path / "page.html").write_text("a page")
    begun = []
    training, scoring = train(0, 3), score()
    next(training)
    tracked, open_runs = tracking.mlflow.active_run(), tracking.mlflow.tracking.fluent._active_run_stack.get()
    open_runs.clear()  # two jobs have two processes
    next(scoring)
    server.kill()
    try:
        next(scoring)  # a score table is complete: it ends well, and says what is missing
        kept = tmp_path / "scores.unrecorded.jsonl"
        told = capsys.readouterr().err
        assert f"MLflow at {server.uri} did not answer to the end: 3 records of this run wait in {kept}" in told
        assert "run the same command again, which sends them" in told
        open_runs.append(tracked)
        with pytest.raises(InputError, match=r"bundle: made, but not registered: MLflow at http://127.* same command"):
            next(training)
        assert (tmp_path / "model.unrecorded.jsonl").exists()
        with pytest.raises(InputError, match=r"MLflow at http://127.*does not answer.*; start it, or correct MLFLOW_"):
            is_registered("0" * 64)
        assert "; trying again for 2 s\n" in capsys.readouterr().err
        with pytest.raises(InputError, match=r"MLflow at http://127.*does not answer"):
            send_kept(tmp_path / "scores")
    finally:
        server.start()
    assert [send_kept(tmp_path / "scores") for _ in range(2)] == [3, 0]
    found = shared_store.get_run(begun[1])
    assert (found.info.status, found.data.metrics["rows"]) == ("FINISHED", 7.0)
    assert [one.path for one in shared_store.list_artifacts(begun[1], "scores")] == ["scores/page.html"]
    again = train(8, 9)
    next(again)
    registered = next(again)
    assert begun[2] == begun[0]  # taken up again
    assert steps_of(shared_store, begun[0]) == [(step, step / 8) for step in range(14)]
    assert shared_store.get_run(begun[0]).info.status == "FINISHED"
    assert registered.version == "1"
    assert not list(tmp_path.glob("*.unrecorded.jsonl"))
    told = capsys.readouterr()
    assert PASSWORD not in told.out + told.err


def test_what_waits_for_a_run_of_another_store_is_told(server, shared_store, tmp_path):
    kept = tmp_path / "model.unrecorded.jsonl"
    kept.write_text('{"run_id": "' + "0" * 32 + '"}\n')
    with pytest.raises(InputError, match=r"unrecorded\.jsonl: waits for a run that http://127\S+ does not know; set"):
        send_kept(tmp_path / "model")
    assert kept.exists()


def test_a_setting_with_a_password_is_recorded_nowhere(shared_store, tmp_path):
    settings = {"model": {"start": f"s3://key:{PASSWORD}@bucket/bundle"}}
    with (
        pytest.raises(InputError, match=r"job\.toml: model\.start is an address that holds a password") as told,
        tracked_run("refused", kind="train", out=tmp_path / "x", settings=settings, job_path=Path("job.toml")),
    ):
        pass
    assert PASSWORD not in str(told.value)


def test_a_training_ends_with_the_same_metrics_whether_or_not_its_server_died_under_way(
    server, shared_store, cisray, dataset, tmp_path, monkeypatch
):
    for module in (mlflow_store, tracking):
        monkeypatch.setattr(module, "PATIENCE_S", 300.0)  # on a busy machine a server takes minutes to start

    def line(name):
        settings = {"dataset": dataset, "out": tmp_path / name, "name": name, "training.epochs": 2}
        settings |= {"training.precision": "float32", "model.stem_channels": 16, "model.channels": 16}
        settings |= {"model.dilated_layers": 1, "training.checkpoint_steps": 8, "workers.cpus_per_worker": 1}
        return list(itertools.chain(*(("--set", f"{key}={value}") for key, value in settings.items())))

    def kill_when_under_way():
        while not (found := shared_store.search_runs(experiments("died"), max_results=1)) or not any(
            name.startswith("train.") for name in found[0].data.metrics
        ):
            time.sleep(0.05)
        server.kill()
        time.sleep(2)  # and then the seconds that it takes to start
        server.start()

    def experiments(name):
        return [one.experiment_id for one in shared_store.search_experiments() if one.name == name] or ["0"]

    ended = cisray("train", JOBS / "train.toml", *line("undisturbed"))
    assert ended.code == 0, ended.err
    killer = threading.Thread(target=kill_when_under_way)
    killer.start()
    died = cisray("train", JOBS / "train.toml", *line("died"))
    killer.join()
    assert died.code == 0, died.err
    assert f"MLflow at {server.uri} does not answer" in died.err
    runs = {}
    for name in ("undisturbed", "died"):
        (runs[name],) = shared_store.search_runs(experiments(name))
        assert runs[name].info.status == "FINISHED"
        assert shared_store.get_model_version_by_alias(name, "champion").run_id == runs[name].info.run_id
    names = {name for name in runs["undisturbed"].data.metrics if name.startswith(("train.loss", "valid.", "best."))}
    assert len(names) > 3
    for name in names:
        series = [steps_of(shared_store, run.info.run_id, name) for run in runs.values()]
        assert series[0] == series[1], name
    job = load_job(JOBS / "train.toml", TrainJob, line("died")[1::2])
    assert job.name == "died"
    for text in (ended.out, ended.err, died.out, died.err):
        assert PASSWORD not in text
    assert f"MLflow store: {server.uri}" in died.out
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_no_password_stands_in_the_database_the_artifacts_or_the_log(server, shared_store, database):
    """The last of this module: it looks at what all the others have left."""
    host, port = database.split(":")
    dump = Path(shutil.which("initdb")).resolve().with_name("pg_dump")
    command = [dump, f"--host={host}", f"--port={port}", "--username=mlflow", "mlflow"]
    environment = os.environ | {"PGPASSWORD": PASSWORD}
    written = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "COPY public.metrics" in written
    assert "train.loss" in written
    assert PASSWORD not in written
    assert PASSWORD not in server.log.read_text()
    files = [path for path in server.artifacts.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    assert redacted(os.environ["MLFLOW_TRACKING_URI"]) == server.uri
