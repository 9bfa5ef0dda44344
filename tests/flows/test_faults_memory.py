"""Let Ray's memory monitor end processes that take too much: of tasks that write files, and of tasks that return."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray
# What a machine may be given beyond what it holds now, and what the test takes at most if nobody stops it.
ALLOWED_GIB, MOST_GIB = 4, 8
GREEDY = f"""
import json, os, sys, time
from pathlib import Path

import psutil

memory = psutil.virtual_memory()
allowed = memory.total - memory.available + ({ALLOWED_GIB} << 30)
os.environ["RAY_memory_usage_threshold"] = str(allowed / memory.total)
os.environ["RAY_memory_monitor_refresh_ms"] = "50"

import cisray.flows
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.shards import Task, open_staging, run_tasks
from cisray.flows.spread import call_for_each
from cisray.progress import silent

out = Path(sys.argv[1])

def take_memory():
    with (out / "taken").open("a") as handle:
        handle.write(".")
    held = []
    for _ in range({MOST_GIB} << 2):
        held.append(np.ones(1 << 25))  # 256 MiB
    time.sleep(60)
    raise AssertionError(f"{{len(held)}} blocks of 256 MiB were held, and nobody stopped it")

class Greedy:
    def work(self, values):
        if values["number"] == 2 and not (out / "taken").exists():
            take_memory()
        return pa.table({{"number": [values["number"]]}}), {{}}

    def write(self, table, path):
        pq.write_table(table, path)

def run(name):
    staging = open_staging(out / name, {{"of": "greedy"}})
    tasks = [Task(f"n{{number}}", f"{{number}}.parquet", {{"number": number}}) for number in range(6)]
    spec = ClusterSpec(actors=2, cpus_per_actor=0.5)
    run_tasks(tasks, Greedy, staging=staging, cluster=spec, stage="work", report=silent)
    staging.finish()

def fit(number):
    if number == 1:
        take_memory()
    return number
"""
TWICE = (
    GREEDY
    + """
said = {}
try:
    with cluster(ClusterSpec()):
        run("disturbed")
        said["task"] = len((out / "taken").read_text())
        run("undisturbed")
        (out / "taken").unlink()
        call_for_each(fit, range(3), cluster=ClusterSpec(actors=2), threads=2)
except InputError as error:
    said["told"] = str(error)
said["fit"] = len((out / "taken").read_text())
(out / "said").write_text(json.dumps(said))  # Ray tells of each on standard output
"""
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What a driver on a cluster of its own said, and where it wrote."""
    folder = tmp_path_factory.mktemp("greedy")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", TWICE, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "said").read_text()), folder


def test_a_task_that_once_took_too_much_memory_is_done_again_with_the_same_bytes(ended, bytes_of):
    said, folder = ended
    assert said["task"] == 1
    assert bytes_of(folder / "disturbed") == bytes_of(folder / "undisturbed")


def test_a_fit_that_takes_too_much_memory_each_time_is_given_up_and_told(ended):
    said, _ = ended
    assert said["told"].startswith("the work ended because processes that did it died, ")
    assert "low on memory" in said["told"]
    assert said["fit"] == 5
