"""Runs, their lineage and the registry, in the session's one store."""

import base64
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import Predictor, build_network, bundle_digest, head_tracks, shared_geometry, write_bundle
from cisray.errors import BusyError, InputError
from cisray.geometry import Geometry
from cisray.mlflow_store import store_uri
from cisray.models.basenji2 import Basenji2Config
from cisray.progress import Progress
from cisray.registry import fetch_model
from cisray.tracking import is_registered, record_evaluation, tracked_run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("store")]
SETTINGS = {"name": "study", "training": {"epochs": 3, "learning_rate": 4e-3}, "tracks": ["a" * 900]}


@pytest.fixture
def make_bundle(make_card, tmp_path):
    """Write a small bundle whose weights come from a seed."""

    def make(seed):
        geometry = Geometry(window_bp=64, bin_bp=8)
        config = KmerRidgeConfig(k=2, contexts_bp=(8,))
        network = build_network(config, geometry=geometry, num_tracks=3)
        random = torch.Generator().manual_seed(seed)
        weights = {
            name: torch.randn(value.shape, dtype=value.dtype, generator=random)
            for name, value in network.state_dict().items()
        }
        folder = tmp_path / f"bundle-{seed}"
        write_bundle(
            folder, weights=weights, config=config, cards=make_card(geometry=geometry), metrics={}, objective="poisson"
        )
        return folder

    return make


@pytest.fixture
def open_run(tmp_path):
    """Open a run as the command line does, of an experiment of this test's own."""
    job_path = tmp_path / "job.toml"
    job_path.write_text('name = "study"\n')

    def make(experiment, *, out="model", settings=SETTINGS):
        return tracked_run(experiment, kind="train", out=tmp_path / out, settings=settings, job_path=job_path)

    return make


def register(open_run, make_bundle, name, metrics):
    """Register a version per metric, each by a run of its own, and return what became of each."""
    registered = []
    for seed, metric in enumerate(metrics):
        folder = make_bundle(seed)
        with open_run(name, out=f"model-{seed}") as run:
            registered.append(
                run.register(folder, name=name, digest=Predictor(folder).digest, dataset_digest="d", metric=metric)
            )
    return registered


def test_a_run_keeps_settings_metrics_by_step_dataset_and_job_file(store, open_run, tmp_path):
    with open_run("kept") as run:
        run.log_dataset(tmp_path, name="tiny", digest="0123456789" * 6, context="training")
        for step, loss in ((20, 3.5), (40, 2.25)):
            run.report(Progress("train", step, 40, "steps", {"train.loss": loss, "odd(name)": 1.0}))
        run.log_metrics({"best.valid.pearson": 0.75, "undefined": None})
        assert store.get_run(run.run_id).info.status == "RUNNING"
    found = store.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["training.epochs"] == "3"
    assert found.data.params["training.learning_rate"] == "0.004"
    assert found.data.params["tracks"].startswith("['aaa")  # cut to what the store takes, not refused
    steps = [(metric.step, metric.value) for metric in store.get_metric_history(run.run_id, "train.loss")]
    assert steps == [(20, 3.5), (40, 2.25)]
    assert found.data.metrics["best.valid.pearson"] == 0.75
    assert found.data.metrics["odd_name_"] == 1.0
    assert "undefined" not in found.data.metrics
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("tiny", ("0123456789" * 6)[:36])
    assert {tag.value for tag in used.tags} == {"training"}
    assert found.data.tags["dataset.digest"] == "0123456789" * 6
    assert found.data.tags["cisray.kind"] == "train"
    (artifact,) = store.list_artifacts(run.run_id, "job")
    local = store.download_artifacts(run.run_id, artifact.path)
    assert Path(local).read_text() == 'name = "study"\n'


def test_artifacts_lie_beside_the_database(store, open_run):
    with open_run("beside") as run:
        pass
    folder = Path(store_uri().removeprefix("sqlite:///")).parent
    assert store.get_run(run.run_id).info.artifact_uri.startswith(folder.as_uri() + "/")


def test_a_run_that_fails_says_so_and_is_not_taken_up_again(store, open_run):
    with pytest.raises(InputError, match="bad"), open_run("failed") as run:
        raise InputError("bad")
    assert store.get_run(run.run_id).info.status == "FAILED"
    with open_run("failed") as other:
        assert other.run_id != run.run_id
    assert store.get_run(other.run_id).info.status == "FINISHED"


def test_a_run_that_finds_another_at_its_work_leaves_it_open(store, open_run):
    with open_run("busy") as run:
        active = mlflow.tracking.fluent._active_run_stack.get()
        hidden = [active.pop()]  # the other is the same command in a process of its own
        with pytest.raises(BusyError), open_run("busy"):
            raise BusyError("another process works on it")
        assert store.get_run(run.run_id).info.status == "RUNNING"
        active += hidden
    with pytest.raises(BusyError), open_run("busy") as alone:
        raise BusyError("another process works on it")
    assert store.get_run(alone.run_id).info.status == "FAILED"


def test_a_registration_that_was_cut_short_is_made_again_and_has_its_champion(
    store, open_run, make_bundle, monkeypatch
):
    folder = make_bundle(0)
    digest = Predictor(folder).digest
    with monkeypatch.context() as patch:
        patch.setattr(
            mlflow.MlflowClient, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(OSError("killed"))
        )
        with pytest.raises(OSError, match="killed"), open_run("cut") as run:
            run.register(folder, name="cut", digest=digest, dataset_digest="d", metric=0.5)
    assert not is_registered(digest)
    with open_run("cut") as run:
        assert run.register(folder, name="cut", digest=digest, dataset_digest="d", metric=0.5).is_champion
    assert is_registered(digest)


def test_a_run_that_was_killed_is_taken_up_again(store, open_run, tmp_path):
    code = f"""
import os, pathlib
from cisray.tracking import tracked_run
from cisray.progress import Progress
with tracked_run("killed", kind="train", out=pathlib.Path({str(tmp_path / "model")!r}), settings={SETTINGS!r},
                 job_path=None) as run:
    run.report(Progress("train", 1, 2, "steps", {{"train.loss": 4.0}}))
    print(run.run_id, flush=True)
    os._exit(9)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 9, ended.stderr
    killed = ended.stdout.split()[-1]
    assert store.get_run(killed).info.status == "RUNNING"
    with open_run("killed", out="another") as other:
        assert other.run_id != killed
    with open_run("killed") as run:
        run.report(Progress("train", 2, 2, "steps", {"train.loss": 3.0}))
        assert run.run_id == killed
    assert store.get_run(killed).info.status == "FINISHED"
    assert [metric.value for metric in store.get_metric_history(killed, "train.loss")] == [4.0, 3.0]


def test_the_champion_moves_only_for_a_better_validation_metric(store, open_run, make_bundle):
    champions = []
    for seed, metric in enumerate([0.5, 0.4, 0.5, 0.6]):
        folder = make_bundle(seed)
        with open_run("contest", out=f"model-{seed}") as run:
            registered = run.register(
                folder, name="contest", digest=Predictor(folder).digest, dataset_digest="d", metric=metric
            )
        champion = store.get_model_version_by_alias("contest", "champion").version
        assert registered.version == str(seed + 1)
        assert registered.is_champion == (str(champion) == registered.version)
        champions.append(int(champion))
        version = store.get_model_version("contest", registered.version)
        assert version.run_id == run.run_id
        assert version.tags == {
            "bundle.digest": Predictor(folder).digest,
            "dataset.digest": "d",
            "valid.pearson": str(metric),
        }
    assert champions == [1, 1, 1, 4]


def test_a_model_of_another_dataset_does_not_take_the_champions_place(store, open_run, make_bundle):
    with open_run("moved", out="model") as run:
        for seed, dataset, metric in ((0, "d", 0.5), (1, "other", 0.9), (2, "d", float("nan")), (3, "d", 0.6)):
            folder = make_bundle(seed)
            outcome = run.register(
                folder, name="moved", digest=Predictor(folder).digest, dataset_digest=dataset, metric=metric
            )
            assert outcome.is_champion == (seed in {0, 3}), outcome.verdict
    assert str(store.get_model_version_by_alias("moved", "champion").version) == "4"


def test_a_first_version_of_a_model_that_learned_nothing_is_champion_until_one_did(store, open_run, make_bundle):
    outcomes = register(open_run, make_bundle, "nothing", [float("-inf"), 0.1])
    assert [outcome.is_champion for outcome in outcomes] == [True, True]


def test_test_figures_are_recorded_with_the_run_that_trained(store, open_run, make_bundle):
    register(open_run, make_bundle, "measured", [0.5, 0.4])
    digest = Predictor(make_bundle(1)).digest
    champion = store.get_model_version_by_alias("measured", "champion").version
    run_id = record_evaluation(digest, {"test.pearson.fwd": 0.9, "test.r2.fwd": None})
    assert run_id == store.get_model_version("measured", "2").run_id
    assert store.get_run(run_id).data.metrics["test.pearson.fwd"] == 0.9
    assert "test.r2.fwd" not in store.get_run(run_id).data.metrics
    # a test figure never chooses a model
    assert store.get_model_version_by_alias("measured", "champion").version == champion
    assert record_evaluation("0" * 64, {"test.pearson.fwd": 0.9}) is None


def test_a_model_is_fetched_by_alias_by_version_and_by_path(open_run, make_bundle):
    register(open_run, make_bundle, "fetched", [0.5, 0.4])
    digests = {seed: Predictor(make_bundle(seed)).digest for seed in (0, 1)}
    champion = fetch_model("models:/fetched@champion")
    assert (champion.uri, champion.version) == ("models:/fetched@champion", "1")
    assert Predictor(champion.bundle_dir).digest == digests[0]
    second = fetch_model("models:/fetched/2")
    assert (second.version, Predictor(second.bundle_dir).digest) == ("2", digests[1])
    folder = make_bundle(1)
    by_path = fetch_model(str(folder))
    assert (by_path.bundle_dir, by_path.uri, by_path.version) == (folder, str(folder), None)
    by_uri = fetch_model(f"file://{folder}")
    assert (by_uri.bundle_dir, by_uri.uri, by_uri.version) == (folder, f"file://{folder}", None)


def test_figures_of_thousands_of_tracks_are_recorded_in_a_few_requests(store, open_run, make_bundle, monkeypatch):
    register(open_run, make_bundle, "many", [0.5])
    sent, log_batch = [], mlflow.MlflowClient.log_batch

    def counted(client, run_id, metrics=(), **values):
        sent.append(len(metrics))
        return log_batch(client, run_id, metrics=metrics, **values)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    figures = {f"test.pearson.track {number}": number / 7 for number in range(2345)}
    run_id = record_evaluation(Predictor(make_bundle(0)).digest, figures | {"test.r2": None})
    assert sent == [1000, 1000, 345]
    found = store.get_run(run_id).data.metrics
    assert {name: value for name, value in found.items() if name.startswith("test.")} == figures
    with open_run("many steps") as run:
        sent.clear()
        run.report(Progress("train", 20, 40, "steps", {f"figure {number}": number for number in range(30)}))
        run.report(Progress("save", 20, 40, "steps"))
    assert sent == [30]


def test_a_server_that_refuses_the_user_is_told_at_once(monkeypatch):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            logins.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"You are not authenticated")

        def log_message(self, *values):
            pass

    logins = []
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:s3cr3t@{host}")
        with pytest.raises(
            InputError, match=rf"^MLflow at http://{host} refuses this user \(.*\); set MLFLOW_TR"
        ) as told:
            is_registered("0" * 64)
        server.shutdown()
    assert "s3cr3t" not in str(told.value)
    assert logins == ["Basic " + base64.b64encode(b"somebody:s3cr3t").decode()]


def test_a_registered_model_with_a_link_out_of_it_is_not_fetched(open_run, make_bundle, tmp_path):
    register(open_run, make_bundle, "linked", [0.5])
    weights = fetch_model("models:/linked@champion").bundle_dir / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"weights\.safetensors' leads out of this registered model, and is not read"):
        fetch_model("models:/linked@champion")


@pytest.mark.parametrize(
    "address",
    ["models:/absent@champion", "models:/known/7", "models:/known@challenger", "models:/known", "models:/known/latest"],
)
def test_an_unknown_model_is_answered_with_those_that_exist(store, open_run, make_bundle, address):
    if not store.search_registered_models("name = 'known'"):
        register(open_run, make_bundle, "known", [0.5])
    with pytest.raises(InputError, match=r"no such model in sqlite:///.* \(registered: .*known.*\)") as caught:
        fetch_model(address)
    assert str(caught.value).startswith(f"{address}: ")


def test_a_folder_without_a_bundle_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"not a bundle \(no model\.json in it\).*models:/NAME@champion"):
        fetch_model(str(tmp_path))


def test_a_registered_model_predicts_through_mlflow_what_the_bundle_does(open_run, make_bundle):
    register(open_run, make_bundle, "served", [0.5])
    codes = np.random.default_rng(0).integers(0, 5, (3, 64), np.uint8)
    served = mlflow.pyfunc.load_model("models:/served@champion")
    predictions = served.predict(codes)
    assert predictions.shape == (3, 8, 3)
    np.testing.assert_array_equal(predictions, Predictor(make_bundle(0)).predict(codes))


def test_of_a_registered_model_with_several_heads_each_can_be_loaded(open_run, make_card, tmp_path):
    card = make_card(geometry=Geometry(window_bp=64, bin_bp=8))
    cards = {"model": card, "other": card}  # a card called like the file that says what the model is
    config = Basenji2Config(stem_channels=4, channels=4, dilated_layers=0, head_channels=4)
    network = build_network(config, geometry=shared_geometry(cards), num_tracks=head_tracks(cards))
    folder, weights = tmp_path / "heads", network.state_dict()
    write_bundle(folder, weights=weights, config=config, cards=cards, metrics={}, objective="poisson")
    with open_run("heads", out="heads") as run:
        run.register(folder, name="heads", digest=bundle_digest(folder), dataset_digest="d", metric=0.5)
    fetched = fetch_model("models:/heads@champion").bundle_dir
    assert bundle_digest(fetched) == bundle_digest(folder)
    codes = np.random.default_rng(0).integers(0, 5, (3, 64), np.uint8)
    found = {}
    for head in cards:
        served = mlflow.pyfunc.load_model("models:/heads@champion", model_config={"head": head})
        found[head] = served.predict(codes)
        np.testing.assert_array_equal(found[head], Predictor(folder, head=head).predict(codes))
    assert not np.array_equal(found["model"], found["other"])
    with pytest.raises(InputError, match=r"this bundle has several heads; add head=\.\.\., it has model, other"):
        mlflow.pyfunc.load_model("models:/heads@champion")


def test_the_store_is_made_in_the_working_directory_unless_one_is_named(monkeypatch, tmp_path):
    assert store_uri() == os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path / 'runs/mlflow.db'}"
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_making_was_killed_half_way_is_made_to_the_end(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    killed = f"""
import os, sqlite3
connection = sqlite3.connect({str(path)!r})
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
connection.execute("CREATE TABLE half (text)")
connection.executemany("INSERT INTO half VALUES (?)", [("x" * 1000,)] * 100)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    assert not is_registered("none")


def test_a_nested_run_is_made_once_and_stays_open_until_it_is_closed(store, open_run):
    with open_run("nested") as run:
        child = run.child("trial 0", settings={"training": {"epochs": 3}})
        child.report(Progress("train", 20, 40, "steps", {"train.loss": 3.5}))
        assert run.child("trial 0", settings={}).run_id == child.run_id
        assert run.child("trial 1", settings={}).run_id != child.run_id
        assert store.get_run(child.run_id).info.status == "RUNNING"
        child.end()
        ended = store.get_run(child.run_id).info.end_time
        child.end(failure="is said too late")
    found = store.get_run(child.run_id)
    assert (found.info.status, found.info.end_time) == ("FINISHED", ended)
    assert found.info.run_name == "trial 0"
    assert found.data.tags["mlflow.parentRunId"] == run.run_id
    assert "cisray.failure" not in found.data.tags
    assert found.data.params == {"training.epochs": "3"}
    assert found.data.metrics == {"train.loss": 3.5}


def test_a_nested_run_that_failed_keeps_the_reason(store, open_run):
    with open_run("nested failure") as run:
        child = run.child("trial 0", settings={})
        child.end(failure="out of memory" + "!" * 900)
    found = store.get_run(child.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["cisray.failure"].startswith("out of memory!!")


def test_a_nested_run_that_was_interrupted_and_came_to_its_end_later_is_no_failure(store, open_run):
    with open_run("nested again") as run:
        child = run.child("trial 0", settings={})
        child.end(failure="the sweep was interrupted")
        child.end()
    found = store.get_run(child.run_id)
    assert found.info.status == "FINISHED"
    assert "cisray.failure" not in found.data.tags


def test_processes_that_start_at_once_on_a_new_store_lose_nothing(tmp_path):
    code = """
import pathlib, sys
from cisray.tracking import tracked_run
number = sys.argv[1]
with tracked_run("together", kind="sweep", out=pathlib.Path("sweep" + number), settings={}, job_path=None) as run:
    for trial in range(5):
        child = run.child(f"trial {trial}", settings={"number": number})
        child.log_metrics({"value": trial, "other": 0.5})
        child.end()
"""
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], env=environment, stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-2000:]
    client = mlflow.MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "together"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3 * 6
    assert {run.info.status for run in runs} == {"FINISHED"}
    values = sorted(run.data.metrics["value"] for run in runs if run.info.run_name.startswith("trial"))
    assert values == sorted([0.0, 1.0, 2.0, 3.0, 4.0] * 3)
