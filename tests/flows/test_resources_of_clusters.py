"""Jobs that wait: for a node that an autoscaler starts, and for one that died and comes back; each on its own Ray."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from killing import wait_for
from loopback import free_ports

pytestmark = pytest.mark.ray
# Every process of the cluster reads it: Ray would replace a loopback address by the machine's own.
ON_LOOPBACK = """
import ray.util
from ray._private import services
services.resolve_ip_for_localhost = lambda host: host
services.get_node_ip_address = ray.util.get_node_ip_address = lambda *given, **named: "127.0.0.1"
"""
WAITING = """
import json, sys, time
from pathlib import Path

import cisray.flows
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from cisray.flows import resources
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.resources import NoRoomError
from cisray.flows.shards import Task, open_staging, run_tasks

resources.FIRST_SAID_S, resources.SAID_S, resources.LOOK_S = 2.0, 1.0, 0.5
out, told = Path(sys.argv[1]), []

class Sleeper:
    def work(self, values):
        time.sleep(0.3)
        return pa.table({"n": [1]}), {}

    def write(self, table, path):
        pq.write_table(table, path)

def hear(progress):
    if progress.stage == "wait":
        told.append(progress.note)
        print(progress.note, flush=True)

def work(spec, number):
    staging = open_staging(out, {})
    tasks = [Task(f"n{task}", f"n{task}.parquet", {}) for task in range(number)]
    receipts = run_tasks(tasks, Sleeper, staging=staging, cluster=spec, stage="work", report=hear)
    staging.finish()
"""
GROWING = (
    WAITING
    + """
with cluster(ClusterSpec()):
    deadline = time.monotonic() + resources.AUTOSCALER_S
    while (grows := resources.can_grow()) is None and time.monotonic() < deadline:  # it has only just started
        time.sleep(0.1)
    assert grows
    work(ClusterSpec(actors=1, cpus_per_actor=3), 2)
"""
)
SHRINKING = (
    WAITING
    + """
import threading
from ray._private import services
from ray.cluster_utils import Cluster

services.resolve_ip_for_localhost = lambda host: host
node = {"object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}
nodes = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=4, **node)
ray.init(address=nodes.address, log_to_driver=False)

def run():
    with cluster(ClusterSpec()):
        work(ClusterSpec(actors=1, cpus_per_actor=3), 12)

job = threading.Thread(target=run)  # as Ray starts nodes in the main thread only
job.start()
while len(list(Path(f"{out}.unfinished").glob("receipts/*.json"))) < 2:
    time.sleep(0.01)
nodes.remove_node(second, allow_graceful=False)
while sum(node["Alive"] for node in ray.nodes()) > 1:
    time.sleep(0.1)
told.clear()
while not told:
    time.sleep(0.1)
try:
    with resources.room_for(ClusterSpec(cpus_per_actor=3).request, process="none", report=print):
        raise AssertionError("a job that begins now has no room")
except NoRoomError as error:
    print("refused:", error, flush=True)
nodes.add_node(wait=False, num_cpus=4, **node)
job.join()
ray.shutdown()
nodes.shutdown()
"""
)


def autoscaling(port):
    """Return what a head is started with to add nodes of 4 CPUs by itself: processes of this machine."""
    commands = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
    commands += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
    node = {"resources": {"CPU": 4, "object_store_memory": 100 << 20}, "node_config": {}}
    return {key: [] for key in commands} | {
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "cpu": node | {"min_workers": 0, "max_workers": 1},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@pytest.fixture
def growing(tmp_path):
    """A cluster of one CPU whose autoscaler adds a node of four, and the environment of what joins it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ON_LOOPBACK)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment["PYTHONPATH"] = f"{tmp_path / 'site'}:{environment.get('PYTHONPATH', '')}"
    names = ["port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (tmp_path / "autoscaling.json").write_text(json.dumps(autoscaling(ports["port"])))
    of_head = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    of_head["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = FAKE_HEAD_NODE_ID
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += ["--include-dashboard=false", "--num-cpus=1", f"--object-store-memory={100 << 20}"]
    command += [f"--autoscaling-config={tmp_path / 'autoscaling.json'}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment | of_head, stdout=log, stderr=log)

    def answers():
        assert process.poll() is None, (tmp_path / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports["port"]), 1):
            return True
        return False

    wait_for(answers)
    yield environment | {"RAY_ADDRESS": f"127.0.0.1:{ports['port']}"}
    started = psutil.Process(process.pid).children(recursive=True)  # Ray leaves those of an autoscaler's nodes behind
    process.terminate()
    process.wait(timeout=60)
    for each in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)


def run(code, out, environment):
    """Run a driver and return the lines that it printed."""
    command = [sys.executable, "-c", code, str(out)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def test_where_a_cluster_can_grow_a_job_waits_for_it_and_says_so(growing, tmp_path):
    first, *_ = run(GROWING, tmp_path / "out", growing)
    assert first.startswith("waits for room: a worker takes 3 CPUs; no node has 3 CPUs; there is: 1 node of 1 CPU, ")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_where_a_node_dies_a_job_waits_for_another_and_a_new_job_is_refused(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    lines = run(SHRINKING, tmp_path / "out", environment)
    waits = "waits for room: a worker takes 3 CPUs; no node has 3 CPUs; there is: 1 node of 1 CPU, "
    assert any(line.startswith(waits) for line in lines)
    assert any(line.startswith("refused: a worker takes 3 CPUs, and no node has 3 CPUs") for line in lines)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 12
