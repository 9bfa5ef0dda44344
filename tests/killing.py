"""End drivers, and machines of clusters, in the middle of their work, as one that goes down would."""

import contextlib
import json
import os
import pickle
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

# Keeps a cluster of nodes on this machine until its input ends; a line of input adds a node.
HOLD = """
import json, sys
import cisray.flows
from ray._private import services
from ray.cluster_utils import Cluster

services.resolve_ip_for_localhost = lambda host: host  # as cisray's own cluster: loopback only
nodes = [node | {"node_ip_address": "127.0.0.1"} for node in json.loads(sys.argv[1])]
cluster = Cluster(initialize_head=True, head_node_args=nodes[0] | {"include_dashboard": False}, shutdown_at_exit=True)
for node in nodes[1:]:
    cluster.add_node(**node)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(**json.loads(line) | {"node_ip_address": "127.0.0.1"})
"""
# Makes a call as the command line does, with what that says of errors.
DRIVE = """
import pickle, sys
import cisray.flows
from ray._private import services
from cisray.cli import app

services.resolve_ip_for_localhost = lambda host: host
call, job, values = pickle.loads(sys.stdin.buffer.read())
app.app = lambda: call(job, **values)
app.main()
"""
STORE_BYTES = 100 << 20


def wait_for(happened, *, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def run_and_kill_driver(code, happened):
    """Run a driver with a Ray of its own and end it as soon as something has happened."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: happened() or driver.poll() is not None)
        assert driver.poll() is None, f"ended before it could be killed: {driver.stderr.read().decode()[-2000:]}"
    finally:
        driver.kill()
        driver.wait()
        driver.stderr.close()


def pickled(function, job, **values):
    """Return Python code that makes a call, its arguments pickled."""
    return (
        f"import pickle; from {function.__module__} import {function.__name__} as call; "
        f"call(pickle.loads({pickle.dumps(job)!r}), **pickle.loads({pickle.dumps(values)!r}))"
    )


def num_receipts(out):
    """Return how many tasks of an unfinished run are done."""
    return len(list(Path(f"{out}.unfinished").glob("receipts/*.json")))


def has_checkpoint(out):
    """Say whether Ray Train has noted a checkpoint of an unfinished run, and would start from it."""
    snapshot = Path(f"{out}.unfinished/ray/checkpoint_manager_snapshot.json")
    return snapshot.exists() and "checkpoint_20" in snapshot.read_text()


def compare_histories(disturbed, undisturbed):
    """Hold a run against another: every epoch is there once, with the same loss and metrics, to rounding."""
    ours, theirs = (json.loads((path / "metrics.json").read_text())["history"] for path in (disturbed, undisturbed))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row["valid.loss"] == pytest.approx(other["valid.loss"], rel=1e-3)
        assert row["valid.pearson"] == pytest.approx(other["valid.pearson"], abs=5e-3)


class Ended(NamedTuple):
    """How a driver ended, and after how many seconds from when it was waited for."""

    code: int
    told: str
    seconds: float


class Driver(NamedTuple):
    """A driver in a process of its own."""

    process: subprocess.Popen[bytes]

    def wait_until(self, happened: Callable[[], bool], *, seconds: float = 180) -> None:
        """Wait for something, which a driver that has ended will not do."""
        wait_for(lambda: happened() or self.process.poll() is not None, seconds=seconds)
        assert self.process.poll() is None, f"ended too early: {self.process.communicate()[1].decode()[-3000:]}"

    def end(self, *, seconds: float = 180) -> Ended:
        """Wait for its end."""
        begun = time.monotonic()
        told = self.process.communicate(timeout=seconds)[1].decode()
        return Ended(self.process.returncode, told, time.monotonic() - begun)


class Nodes(NamedTuple):
    """A cluster of nodes on this machine, in processes of their own."""

    holder: subprocess.Popen[str]
    address: str
    environment: dict[str, str]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return its processes whose name begins so, the oldest first: a node's is that of its raylet."""
        found = psutil.Process(self.holder.pid).children(recursive=True)
        return sorted((each for each in found if each.name().startswith(name)), key=psutil.Process.create_time)

    def add(self, **node: Any) -> None:
        """Add a node."""
        self.holder.stdin.write(json.dumps(node) + "\n")
        self.holder.stdin.flush()

    @contextlib.contextmanager
    def drive(self, function, job, **values):
        """Run a flow on the cluster, by a driver of its own."""
        with driven(function, job, environment=self.environment | {"RAY_ADDRESS": self.address}, **values) as driver:
            yield driver


def bare_environment(**settings):
    """Return this process's environment without what it says of Ray, and with settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_worker_niceness": "0"} | settings


@contextlib.contextmanager
def driven(function, job, *, environment, **values):
    """Run a flow by a driver of its own, and end what is left of it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE], env=environment, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe
    )
    process.stdin.write(pickle.dumps((function, job, values)))
    process.stdin.close()
    process.stdin = None  # communicate() would write to it
    try:
        yield Driver(process)
    finally:
        _kill_all([process.pid])
        process.wait()
        process.stderr.close()


@contextlib.contextmanager
def own_cluster(*nodes, **settings):
    """Start a cluster of nodes, and end what is left of it; settings are variables of the environment."""
    environment = bare_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), **settings)
    wanted = json.dumps([{"object_store_memory": STORE_BYTES} | node for node in nodes])
    pipe = subprocess.PIPE
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, wanted],
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = holder.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield Nodes(holder, address, environment)
    finally:
        _kill_all([holder.pid])
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def _kill_all(pids):
    """End processes and all that they started."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [*process.children(recursive=True), process]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=30)


def working_processes(title):
    """Return the processes of this process's own Ray that are doing something whose title holds these words."""
    found = [each for each in psutil.Process().children(recursive=True) if each.name().startswith("ray::")]
    return [each for each in found if title in " ".join(each.cmdline())]
