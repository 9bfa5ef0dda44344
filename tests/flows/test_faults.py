"""Kill what works, start the same job again, and compare with a run that nobody disturbed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cisray.datasets.card import read_card
from cisray.flows.build import build
from cisray.flows.score import score
from cisray.flows.score_job import ExportSpec, ScoreJob
from cisray.flows.train import train
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import ModelSource, read_manifest
from cisray.scoring.schema import verify
from killing import compare_histories, has_checkpoint, num_receipts, pickled, run_and_kill_driver, wait_for

pytestmark = pytest.mark.ray
MODEL = ModelSource(uri="model", digest="d")


def kill_a_worker_when(happened, *, title):
    """In the background, end one Ray worker of this test's own cluster as soon as something has happened."""
    killed = []

    def act():
        wait_for(happened)
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::") and title in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return

    thread = threading.Thread(target=act)
    thread.start()
    return thread, killed


TWO_NODES = """
import pickle, sys, threading, time
from pathlib import Path

import cisray.flows
import ray
from ray._private import services
from ray.cluster_utils import Cluster

services.resolve_ip_for_localhost = lambda host: host  # as cisray's own cluster: loopback only
node = {"num_cpus": 2, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
nodes = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
second = nodes.add_node(**node)
ray.init(address=nodes.address, log_to_driver=False)
call, arguments, staging, answer = pickle.loads(sys.stdin.buffer.read())

def kill_when_under_way():
    while len(list(Path(staging).glob("receipts/*.json"))) < 3:
        time.sleep(0.01)
    nodes.remove_node(second, allow_graceful=False)
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        time.sleep(0.1)
    Path(answer).write_text("1")

killer = threading.Thread(target=kill_when_under_way)
killer.start()
call(*arguments[0], **arguments[1])
killer.join()
ray.shutdown()
nodes.shutdown()
"""


def run_and_kill_a_node(function, job, *, tmp_path, **values):
    """Run a flow on two nodes of one machine, of which one dies under way; return how many were left then."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    answer = tmp_path / "alive"
    given = pickle.dumps((function, ((job,), values), f"{job.out}.unfinished", str(answer)))
    subprocess.run(
        [sys.executable, "-c", TWO_NODES], input=given, env=environment, check=True, timeout=180, capture_output=True
    )
    return int(answer.read_text())


def test_build_survives_a_killed_worker(ray_here, build_job, dataset, tmp_path, bytes_of):
    out = tmp_path / "dataset"
    thread, killed = kill_a_worker_when(lambda: num_receipts(out) >= 3, title="_DoTask")
    build(build_job(out))
    thread.join()
    assert killed
    assert bytes_of(out) == bytes_of(dataset)


def test_build_goes_on_after_a_killed_driver_but_for_a_shard_that_was_damaged(
    ray_here, build_job, dataset, tmp_path, bytes_of
):
    out = tmp_path / "dataset"
    run_and_kill_driver(pickled(build, build_job(out)), lambda: num_receipts(out) >= 4)
    assert not out.exists()
    kept = num_receipts(out)
    receipt = json.loads(min(Path(f"{out}.unfinished").glob("receipts/*.json")).read_text())
    shard = Path(f"{out}.unfinished") / receipt["file"]
    shard.write_bytes(shard.read_bytes()[:-100])
    already_done = []
    build(build_job(out), report=lambda progress: already_done.append(progress.figures.get("already_done", 0)))
    assert already_done[0] == kept - 1 >= 3
    assert bytes_of(out) == bytes_of(dataset)


def test_train_survives_a_killed_worker(ray_here, train_job, bundle, tmp_path):
    out = tmp_path / "model"
    thread, killed = kill_a_worker_when(lambda: has_checkpoint(out), title="RayTrainWorker")
    stages = []
    trained = train(train_job(out), report=lambda progress: stages.append(progress.stage))
    thread.join()
    assert killed
    assert "resume" in stages
    compare_histories(trained.bundle_dir, bundle)


def test_train_goes_on_after_a_killed_driver(ray_here, train_job, bundle, tmp_path):
    out = tmp_path / "model"
    run_and_kill_driver(pickled(train, train_job(out)), lambda: has_checkpoint(out))
    assert not out.exists()
    stages = []
    trained = train(train_job(out), report=lambda progress: stages.append(progress.stage))
    assert "resume" in stages
    compare_histories(trained.bundle_dir, bundle)


@pytest.fixture(scope="module")
def score_job(simulated, bundle):
    def make(out):
        return ScoreJob(
            variants="variants.vcf",
            fasta="genome.fa",
            data_dir=str(simulated),
            model=str(bundle),
            out=str(out),
            block_rows=20,
            engine=EngineSpec(strands="both", batch_size=16),
            export=ExportSpec(vcf=True),
        )

    return make


@pytest.fixture(scope="module")
def scores(ray_here, score_job, bundle, tmp_path_factory):
    """A score table by an undisturbed run."""
    return score(score_job(tmp_path_factory.mktemp("scores") / "scores"), models={bundle: MODEL})


def test_score_survives_a_killed_worker(score_job, scores, bundle, tmp_path, bytes_of):
    out = tmp_path / "scores"
    thread, killed = kill_a_worker_when(lambda: num_receipts(out) >= 3, title="_DoTask")
    score(score_job(out), models={bundle: MODEL})
    thread.join()
    assert killed
    assert bytes_of(out) == bytes_of(scores)


def test_score_goes_on_after_a_killed_driver(score_job, scores, bundle, tmp_path, bytes_of):
    out = tmp_path / "scores"
    run_and_kill_driver(pickled(score, score_job(out), models={bundle: MODEL}), lambda: num_receipts(out) >= 3)
    assert not out.exists()
    score(score_job(out), models={bundle: MODEL})
    assert bytes_of(out) == bytes_of(scores)
    verify(out)
    assert read_manifest(out).rows == read_manifest(scores).rows


def test_score_survives_a_killed_node(score_job, scores, bundle, tmp_path, bytes_of):
    out = tmp_path / "scores"
    alive = run_and_kill_a_node(score, score_job(out), tmp_path=tmp_path, models={bundle: MODEL})
    assert alive == 1
    assert bytes_of(out) == bytes_of(scores)


def test_a_finished_dataset_is_not_built_again(ray_here, build_job, dataset):
    reports = []
    assert build(build_job(dataset), report=reports.append) == dataset
    assert reports == []
    assert read_card(dataset).counts["train"] > 0
