"""What nodes see: in words, and on two nodes of which the second one has an empty folder where the first has files."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cisray.flows.build import build
from cisray.flows.evaluate import EvaluateJob, evaluate
from cisray.flows.importance import importance
from cisray.flows.importance_job import ImportanceJob
from cisray.flows.resources import Need
from cisray.flows.score import score
from cisray.flows.score_job import ScoreJob
from cisray.flows.train import train
from cisray.flows.visibility import Wanted, check_visible, look_around
from cisray.remote import fetch
from cisray.scoring.manifest import ModelSource
from object_store import served_bucket

pytestmark = pytest.mark.ray
ON_LOOPBACK = """
from ray._private import services
services.resolve_ip_for_localhost = lambda host: host  # as cisray's own cluster: loopback only
"""
# The driver is on a node without CPUs, so that all work goes to the other one.
DRIVER = """
import os, pickle, subprocess, sys, time
from pathlib import Path

import cisray.flows
import ray
from ray.cluster_utils import Cluster
from cisray.errors import InputError

calls, hidden, answer = pickle.loads(sys.stdin.buffer.read())
store = 100 << 20
head = {"num_cpus": 0, "object_store_memory": store, "node_ip_address": "127.0.0.1", "include_dashboard": False}
nodes = Cluster(initialize_head=True, head_node_args=head)
start = [Path(sys.executable).with_name("ray"), "start", f"--address={nodes.address}", "--node-ip-address=127.0.0.1"]
start += ["--num-cpus=4", f"--object-store-memory={store}", "--dashboard-agent-listen-port=0", "--block"]
hide = 'for folder in "$@"; do shift; [ "$folder" = -- ] && break; mount -t tmpfs none "$folder"; done; exec "$@"'
second = subprocess.Popen(
    ["unshare", "--mount", "sh", "-ec", hide, "hide", *hidden, "--", *start], stdout=sys.stderr, stderr=sys.stderr
)
ray.init(address=nodes.address, log_to_driver=False)
try:
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        assert second.poll() is None
        time.sleep(0.1)
    told = []
    for call in calls:
        try:
            told.append(f"done: {call()}")
        except InputError as error:
            told.append(f"refused: {error}")
    seen = [path for folder in hidden for path in Path(f"/proc/{second.pid}/root{folder}").rglob("*") if path.is_file()]
    Path(answer).write_bytes(pickle.dumps((told, [path.name for path in seen])))
finally:
    ray.shutdown()
    second.terminate()
    second.wait(timeout=60)
    nodes.shutdown()
"""


@pytest.fixture(scope="session")
def can_hide():
    """Skip where a process may not have mounts of its own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip("this process may not mount")


@pytest.fixture(scope="module")
def run_beside(can_hide, tmp_path_factory):
    """Run flows whose workers are on a node that has empty folders instead of some; return what each told, and what
    files that node has there in the end."""

    def run(*calls, hidden):
        tmp_path = tmp_path_factory.mktemp("beside")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(ON_LOOPBACK)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment["PYTHONPATH"] = str(tmp_path / "site")
        given = pickle.dumps((calls, list(map(str, hidden)), str(tmp_path / "answer")))
        with (tmp_path / "log").open("w") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER],
                stdin=subprocess.PIPE,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                driver.communicate(given, timeout=200)
            finally:
                if driver.poll() is None:
                    os.killpg(driver.pid, signal.SIGKILL)
        assert driver.returncode == 0, (tmp_path / "log").read_text()[-3000:]
        return pickle.loads((tmp_path / "answer").read_bytes())

    return run


@pytest.fixture
def wanted(tmp_path):
    """What a node is asked, where all is well."""
    folder = tmp_path / "out.unfinished"
    folder.mkdir()
    (folder / ".visible.tmp").write_text("")
    (tmp_path / "genome.fa").write_text(">a\nACGT\n")
    files = {str(tmp_path / "genome.fa"): 8, str(tmp_path): None}
    return Wanted(files, {}, str(tmp_path / "cache"), str(folder), str(folder / ".visible.tmp"))


def test_all_is_well(wanted):
    assert look_around(wanted) == ""
    assert [path.name for path in Path(wanted.folder).iterdir()] == [".visible.tmp"]


def test_each_path_that_is_missing_or_other_is_named(wanted, tmp_path):
    assert look_around(wanted._replace(files={"/nowhere/x.bw": 3})) == "/nowhere/x.bw is not there"
    other = look_around(wanted._replace(files={str(tmp_path / "genome.fa"): 4_000}))
    assert other == f"{tmp_path}/genome.fa has 8 bytes here, and 4,000 where the job began"
    many = look_around(wanted._replace(files={f"/nowhere/{number}": None for number in range(5)}))
    assert many == "/nowhere/0 is not there; /nowhere/1 is not there; /nowhere/2 is not there and 2 more"


def test_a_folder_that_is_another_one_or_cannot_be_written_is_named(wanted, monkeypatch):
    monkeypatch.setattr("cisray.flows.visibility.APPEARS_S", 0.1)
    missing = look_around(wanted._replace(probe=f"{wanted.folder}/.other.tmp"))
    assert missing == f"what is written to {wanted.folder} does not appear here"

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert look_around(wanted) == f"nothing can be written to {wanted.folder} (Permission denied)"


def test_what_a_uri_names_is_fetched_to_the_same_path(wanted, tmp_path):
    with pytest.MonkeyPatch.context() as patch, served_bucket(patch) as bucket:
        uri = bucket.put("genome.fa", b">a\nACGT\n")
        path = fetch(uri, tmp_path / "other")
        here = tmp_path / "cache" / path.relative_to(tmp_path / "other")
        assert look_around(wanted._replace(fetched={str(here): uri})) == ""
        assert here.read_bytes() == b">a\nACGT\n"
        bucket.put("genome.fa", b">a\nTTTT\n")
        assert look_around(wanted._replace(fetched={str(here): uri})).startswith(f"{uri} is another version here, or ")
        bucket.delete("genome.fa")
        told = look_around(wanted._replace(fetched={str(here): uri}))
        assert told == f"{uri}: no such object or folder; check the name"


def test_one_node_asks_nobody(ray_here, tmp_path):
    check_visible([Path("/nowhere")], tmp_path / "nowhere", need=Need(1.0))


@pytest.fixture(scope="module")
def refused(run_beside, build_job, train_job, simulated, dataset, bundle, tmp_path_factory):
    """What five flows told of a node that does not see what they work on, what was left there, and where they ran."""
    here = tmp_path_factory.mktemp("hidden")
    for folder in (simulated, dataset):  # others of the five need what one of them misses
        shutil.copytree(folder, here / "copies" / folder.name)
    (here / "runs").mkdir()
    copies = {folder: here / "copies" / folder.name for folder in (simulated, dataset)}
    seen = {"model": str(bundle), "dataset": str(dataset)}
    missed = seen | {"dataset": str(copies[dataset])}
    scored = {"variants": "variants.vcf", "fasta": "genome.fa", "data_dir": str(simulated), "model": str(bundle)}
    models = {bundle: ModelSource(uri="m", digest="d")}
    calls = {
        "build": partial(build, build_job(here / "dataset", data_dir=str(copies[simulated]))),
        "train": partial(train, train_job(here / "runs/model")),
        "evaluate": partial(evaluate, EvaluateJob(**missed, out=str(here / "evaluation"))),
        "importance": partial(importance, ImportanceJob(**seen, out=str(here / "importance"), by=("words",))),
        "score": partial(score, ScoreJob(**scored, out=str(here / "scores")), models=models),
    }
    told, left = run_beside(*calls.values(), hidden=[*copies.values(), here / "runs", bundle.parent])
    return dict(zip(calls, told, strict=True)), left, here


def test_inputs_that_another_node_does_not_see_are_named(refused, simulated):
    told, _, here = refused
    genome = here / "copies" / simulated.name
    assert told["build"].startswith("refused: node 127.0.0.1 (")
    assert f": {genome}/genome.fa is not there; {genome}/" in told["build"]
    assert told["build"].endswith(
        "\nwanted: what a job names in one folder that all machines share, under the same path, or a URI that all of "
        "them can read, such as s3://bucket/file"
    )
    left = {path.name for path in (here / "dataset.unfinished").iterdir()}
    assert left == {".lock", ".plan.json"}


def test_a_result_folder_that_another_node_does_not_see_is_named(refused):
    told, left, here = refused
    assert f": what is written to {here}/runs/model.unfinished does not appear here\nwanted: " in told["train"]
    assert left == []


def test_a_dataset_and_a_bundle_that_another_node_does_not_see_are_named(refused, bundle):
    assert f"{bundle} is not there" in refused[0]["evaluate"]


@pytest.mark.parametrize("flow", ["importance", "score"])
def test_a_bundle_that_another_node_does_not_see_is_named(refused, bundle, flow):
    assert f": {bundle} is not there\nwanted: " in refused[0][flow]


def test_a_node_fetches_what_uris_name_by_itself(run_beside, build_job, dataset, simulated, tmp_path, bytes_of):
    """The second node's cache is an empty folder of its own, and all shards are built there."""
    cache, out = tmp_path / "cache", tmp_path / "dataset"
    cache.mkdir()
    with pytest.MonkeyPatch.context() as patch, served_bucket(patch) as bucket:
        patch.setenv("CISRAY_CACHE", str(cache))
        job = build_job(out, data_dir=bucket.put_folder(simulated, "simulated"))
        (told,), fetched = run_beside(partial(build, job), hidden=[cache])
    assert told == f"done: {out}"
    assert {"genome.fa", "contigs.json"} <= set(fetched)
    assert sum(name.endswith(".bw") for name in fetched) == 4
    # the plan says when inputs were written, which was later in the bucket
    assert {**bytes_of(out), ".plan.json": ""} == {**bytes_of(dataset), ".plan.json": ""}
