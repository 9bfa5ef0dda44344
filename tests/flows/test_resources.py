"""What fits where, against placing workers one by one; what is refused, within the time that is promised; who waits."""

import dataclasses
import json
import os
import threading
import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.flows import resources
from cisray.flows.cluster import ClusterSpec
from cisray.flows.resources import (
    RESOURCES,
    Need,
    Node,
    Request,
    can_grow,
    describe_nodes,
    describe_request,
    find_lack,
    nodes_here,
    num_held,
    room_for,
)
from cisray.flows.shards import Task, open_staging, run_tasks
from cisray.flows.sweep import slots_of
from cisray.flows.sweep_job import SweepJob
from cisray.flows.train_job import WorkerSpec
from cisray.progress import silent
from killing import wait_for
from whole_program import JOBS

pytestmark = pytest.mark.ray
SETTINGS = {name: f"cluster.{name}" for name in RESOURCES}
SMALL, LARGE = Node(4, 0, 16), Node(16, 2, 64, ("H100",))

nodes = st.lists(
    st.builds(
        Node,
        st.integers(0, 9).map(float),
        st.integers(0, 4).map(float),
        st.integers(0, 40).map(float),
        st.sampled_from([(), ("H100",), ("A10G", "H100")]),
    ),
    max_size=5,
)
needs = st.builds(
    Need,
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([None, 0.5, 4.0, 16.0]),
    st.sampled_from([None, None, "H100", "A10G"]),
)


def place_one_by_one(need, nodes):
    """Give workers to nodes until none takes another, and return how many there are and what CPUs are left."""
    free, placed = [list(node) for node in nodes], 0
    for node in free:
        while (
            node[0] >= need.cpus
            and node[1] >= need.gpus
            and node[2] >= (need.memory_gb or 0)
            and (need.accelerator_type is None or need.accelerator_type in node[3])
        ):
            node[0], node[1], node[2] = node[0] - need.cpus, node[1] - need.gpus, node[2] - (need.memory_gb or 0)
            placed += 1
    return placed, max((node[0] for node in free), default=0)


@given(needs, nodes, st.integers(1, 12), st.sampled_from([0.0, 0.5]))
def test_what_is_refused_could_not_have_been_placed(need, nodes, workers, room_cpus):
    placed, left = place_one_by_one(need, nodes)
    fits = placed > workers or (placed == workers and left >= room_cpus)
    lack = find_lack(Request(need, SETTINGS, workers, room_cpus), nodes)
    assert (lack is None) == fits


@given(needs, nodes)
def test_defaults_fill_the_cluster_but_for_a_cpu_of_one_node(need, nodes):
    held = num_held(need, nodes, cpu_count=64)
    without = [
        place_one_by_one(need, [*nodes[:at], node._replace(cpus=node.cpus - 1), *nodes[at + 1 :]])[0]
        for at, node in enumerate(nodes)
        if node.cpus >= 1
    ]
    assert held == max(without, default=place_one_by_one(need, nodes)[0] if len(nodes) != 1 else 0)


@given(nodes, st.integers(1, 6), st.booleans())
def test_workers_share_all_the_cpus_with_which_they_have_room(nodes, num_workers, use_gpu):
    spec = WorkerSpec(num_workers=num_workers, use_gpu=use_gpu)
    shared = spec.on(nodes)
    if find_lack(shared.request(), nodes) is not None:  # as before there was a cluster
        assert all(find_lack(dataclasses.replace(spec, cpus_per_worker=cpus).request(), nodes) for cpus in range(1, 12))
        assert shared.threads == spec.threads
    elif use_gpu and len(nodes) > 1:
        assert shared.cpus_per_worker <= max([1, *((node.cpus - 1) / node.gpus for node in nodes if node.gpus >= 1)])
    elif len(nodes) > 1:
        more = dataclasses.replace(spec, cpus_per_worker=shared.cpus_per_worker + 1)
        assert find_lack(more.request(), nodes) is not None


def test_workers_leave_room_for_their_readers(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert WorkerSpec().on([Node(16)]).cpus_per_worker == 15
    assert WorkerSpec().on([Node(18)]).cpus_per_worker == 16  # a cluster started here says that it has two more
    assert WorkerSpec(num_workers=4).on([Node(16)]).cpus_per_worker == 3
    assert WorkerSpec(num_workers=4).on([Node(0), *[Node(16)] * 4]).cpus_per_worker == 15
    assert WorkerSpec(num_workers=3).on([Node(0), *[Node(16)] * 4]).cpus_per_worker == 16
    assert WorkerSpec(num_workers=8, use_gpu=True).on([Node(64, 8, 500, ("H100",))]).cpus_per_worker == 2
    assert WorkerSpec(num_workers=8, use_gpu=True).on([Node(64, 8), Node(4)]).cpus_per_worker == 7
    assert WorkerSpec(use_gpu=True).on([Node(0), Node(8, 1), Node(8, 1)]).cpus_per_worker == 7
    assert WorkerSpec(use_gpu=True).on([Node(64, 8), Node(64, 8)]).cpus_per_worker == 7
    assert WorkerSpec(cpus_per_worker=3).on([Node(16)]).cpus_per_worker == 3
    assert WorkerSpec(num_workers=2).on([]).threads == 8


@pytest.mark.parametrize(
    ("request_", "nodes", "why", "remedy"),
    [
        (Request(Need(1000), SETTINGS), [SMALL, LARGE], "no node has 1000 CPUs", "change cluster.CPU, or join"),
        (Request(Need(1, 1), SETTINGS), [SMALL], "no node has 1 GPU", "change cluster.GPU, or join"),
        (
            Request(Need(1, 3, 65, "A10G"), SETTINGS),
            [SMALL, LARGE],
            "no node has 3 GPUs or 65 GiB or an accelerator A10G",
            "change cluster.GPU and cluster.memory and cluster.accelerator_type, or join",
        ),
        (Request(Need(8, 1), SETTINGS), [Node(16), Node(4, 4)], "no node has all of it", "ask for less, or join"),
        (Request(Need(8), SETTINGS, 4), [LARGE, SMALL], "the cluster has room for 2 of them", "lower cluster.workers"),
        (Request(Need(1), SETTINGS), [], "no node has all of it", "ask for less, or join"),
        (
            Request(Need(2), SETTINGS, 2, 0.5),
            [SMALL],
            "they would take every CPU, where 0.5 must be left to what reads their data",
            "lower cluster.CPU or cluster.workers, or join a larger cluster",
        ),
    ],
)
def test_a_refusal_says_what_is_lacking_and_what_to_change(request_, nodes, why, remedy):
    lack = find_lack(request_, nodes)
    assert lack.why == why
    assert lack.remedy.startswith(remedy)


def test_what_is_asked_for_and_what_there_is_in_words():
    assert describe_request(Request(Need(1.5), SETTINGS)) == "a worker takes 1.5 CPUs"
    asked = Request(Need(16, 1, 60, "H100"), SETTINGS, 4)
    assert describe_request(asked) == (
        "4 workers take 16 CPUs, 1 GPU, 60 GiB, an accelerator H100 each, 64 CPUs, 4 GPUs, 240 GiB in all"
    )
    # nodes of one kind differ by some MiB; what is written can be asked for
    kinds = [Node(16, 1, 60.2, ("H100",)), Node(16, 1, 60.9, ("H100",)), Node(1, 0, 1.97), Node(0), Node(4, 0, 8)]
    assert describe_nodes(kinds) == (
        "2 nodes of 16 CPUs, 1 GPU H100, 60 GiB; 1 node of 1 CPU, 1.9 GiB; 1 node of 0 CPUs; 1 node of 4 CPUs, 8 GiB"
    )
    assert describe_nodes([Node(number) for number in range(10)]).endswith("1 node of 7 CPUs; 2 other nodes")
    assert describe_nodes([Node(8, 0, 0, ("TPU-V4",))]) == "1 node of 8 CPUs, TPU-V4"
    assert describe_nodes([]) == "no node"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cpus_per_actor": 0}, r"^job.toml: cluster.cpus_per_actor=0; wanted more than 0"),
        ({"gpus_per_actor": -1}, r"^job.toml: cluster.gpus_per_actor=-1; wanted 0 or more"),
        ({"gpus_per_actor": 1.5}, r"cluster.gpus_per_actor=1.5; wanted a part of one GPU, or whole ones"),
        ({"memory_gb_per_actor": 0}, r"cluster.memory_gb_per_actor=0; wanted more than 0"),
        ({"cpus_per_actor": float("inf")}, r"^job.toml: cpus_per_actor = inf; wanted a finite number"),
    ],
)
def test_amounts_that_nobody_could_give_are_refused_in_the_job(wrong, told):
    with pytest.raises(InputError, match=told.replace("^job.toml: ", "")):
        check_settings(wrong, ClusterSpec, source="job.toml")


def test_a_workers_memory_is_checked_as_well():
    with pytest.raises(InputError, match=r"workers.memory_gb_per_worker=-2; wanted more than 0"):
        check_settings({"memory_gb_per_worker": -2}, WorkerSpec, source="job.toml")


def test_the_nodes_are_those_of_the_cluster(ray_here):
    (node,) = nodes_here()
    assert node.cpus == ray.cluster_resources()["CPU"]
    assert 0 < node.memory_gb * 2**30 == ray.cluster_resources()["memory"]
    # as Ray's own autoscaler says, which here adds none
    assert not resources._grows()


def test_ray_knows_nodes_by_what_their_accelerators_are_called(monkeypatch):
    found = {"CPU": 8.0, "GPU": 1.0, "memory": 2.0**31, "accelerator_type:H100": 1.0, "node:10.0.0.1": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": found}, {"Alive": False, "Resources": {}}])
    assert nodes_here() == [Node(8, 1, 2, ("H100",))]


NODE = f"node_{'0a' * 28}"


def reported(active, idle):
    return json.dumps({"autoscaler_report": {"active_nodes": active, "idle_nodes": idle}}).encode()


def status_of(monkeypatch, *, types=(), report=None, config=None):
    """Let Ray's monitor say which node types it knows: as the newer autoscaler does, or as the older in its report."""
    nodes = [SimpleNamespace(ray_node_type_name=name) for name in types]
    monkeypatch.setattr(resources, "state", SimpleNamespace(get_cluster_config=lambda: config))
    monkeypatch.setattr(resources, "is_autoscaler_v2", lambda **_: report is None)
    monkeypatch.setattr(
        resources, "get_cluster_status", lambda _: SimpleNamespace(active_nodes=nodes[:1], idle_nodes=nodes[1:])
    )
    monkeypatch.setattr(resources, "_internal_kv_get", lambda _: report)


@pytest.mark.parametrize(
    ("said", "grows"),
    [
        ({"types": [NODE, f"{NODE[:-1]}b"]}, False),
        ({"types": ["headgroup", "cpu"]}, True),
        ({"types": []}, None),
        ({"report": b""}, None),
        ({"report": b'{"autoscaler_report": null}'}, None),
        ({"report": reported({NODE: 1}, None)}, False),
        ({"report": reported({NODE: 1}, {"cpu": 2})}, True),
        ({"config": [(0, 0), (2, 2)]}, False),
        ({"config": [(0, 0), (0, -1)]}, True),
        ({"config": [(1, 4)]}, True),
    ],
)
def test_a_cluster_grows_if_its_autoscaler_knows_types_of_nodes(ray_here, monkeypatch, said, grows):
    if "config" in said:
        groups = [SimpleNamespace(min_count=least, max_count=most) for least, most in said["config"]]
        said = {"config": SimpleNamespace(node_group_configs=groups)}
    status_of(monkeypatch, **said)
    assert can_grow() is grows


def test_an_autoscaler_that_never_speaks_is_not_waited_for_for_ever(ray_here, monkeypatch):
    monkeypatch.setattr(resources, "AUTOSCALER_S", 0.1)
    monkeypatch.setattr(resources, "can_grow", lambda: None)
    with (
        pytest.raises(InputError, match=r"^a worker takes 1000 CPUs, and no node has 1000 CPUs; there is: 1 node of "),
        room_for(ClusterSpec(cpus_per_actor=1000).request, process="any", report=silent),
    ):
        raise AssertionError("it began")


def test_ray_is_told_what_an_actor_takes(ray_here, tmp_path):
    class Assigned:  # here, so that it is sent whole to a process that does not know this file
        def work(self, values):
            return pa.table({"n": [1]}), {"given": ray.get_runtime_context().get_assigned_resources()}

        def write(self, table, path):
            pq.write_table(table, path)

    receipts = run_tasks(
        [Task("one", "one.parquet", {})],
        Assigned,
        staging=open_staging(tmp_path / "out", {}),
        cluster=ClusterSpec(cpus_per_actor=0.5, memory_gb_per_actor=0.25),
        stage="work",
        report=silent,
    )
    assert receipts["one"].facts["given"] == {"CPU": 0.5, "memory": 2.0**28}


def test_a_bundle_is_what_options_say():
    need = Need(3, 1, 1.5, "H100")
    assert need.options() == {"num_cpus": 3, "num_gpus": 1, "memory": 3 << 29, "accelerator_type": "H100"}
    assert need.bundle() == {"CPU": 3, "GPU": 1, "memory": 3 << 29, "accelerator_type:H100": 0.001}
    assert Need(1).bundle() == {"CPU": 1}


def test_a_trial_takes_all_its_workers(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    train = {"dataset": "data", "model": {"architecture": "basenji"}}
    space = {"training.learning_rate": {"kind": "loguniform", "low": 1e-3, "high": 1e-2}}

    def slots(nodes, **workers):
        values = {"name": "study", "out": "any", "train": train | {"workers": workers}, "space": space}
        return slots_of(check_settings(values, SweepJob, source="test"), nodes)

    assert slots([Node(16)] * 4, num_workers=4, cpus_per_worker=4) == 3  # one CPU is left to readers
    assert slots([Node(16)] * 4, num_workers=2, cpus_per_worker=9) == 2  # one to a node, though 64 CPUs are 3 x 18
    assert slots([Node(16, 2)] * 4, num_workers=2, cpus_per_worker=4, use_gpu=True) == 4
    assert slots([Node(16)] * 4) == 3
    assert slots([]) == 1


def impossible(verb, job, *settings):
    return (verb, JOBS / job, *(part for setting in settings for part in ("--set", setting)))


@pytest.fixture
def refused(cisray, ray_here):
    """Call the command line with what is refused, and return what it says; all within the minute that is promised."""

    def call(*arguments):
        started = time.monotonic()
        outcome = cisray(*arguments)
        assert time.monotonic() - started < 60
        assert outcome.code == 2, outcome
        there = f"there is: {describe_nodes(nodes_here())}; "
        assert there in " ".join(outcome.err.split())
        return " ".join(outcome.err.split())

    return call


def test_a_build_that_no_node_can_work_on_is_refused(refused, simulated, tmp_path):
    settings = (f"data_dir={simulated}", f"out={tmp_path / 'out'}", "cluster.cpus_per_actor=1000")
    said = refused(*impossible("build", "dataset.toml", *settings))
    assert "a worker takes 1000 CPUs, and no node has 1000 CPUs; there is: 1 node of" in said
    assert said.endswith("change cluster.cpus_per_actor, or join a cluster whose nodes have more")
    # and what is done by a cluster that can hold one is not lost: the folder is as for any unfinished run
    assert not (tmp_path / "out").exists()


def test_scoring_on_gpus_that_are_not_there_is_refused(refused, simulated, bundle, store, tmp_path):
    settings = (f"data_dir={simulated}", f"out={tmp_path / 'out'}", f"model={bundle}", "cluster.gpus_per_actor=9")
    said = refused(*impossible("score", "score.toml", *settings, "cluster.accelerator_type=H100"))
    assert "a worker takes 1 CPU, 9 GPUs, an accelerator H100, and no node has 9 GPUs" in said
    assert "change cluster.gpus_per_actor" in said


def test_a_sweep_of_trainings_that_cannot_begin_is_refused(refused, dataset, store, tmp_path):
    settings = (f"train.dataset={dataset}", f"out={tmp_path / 'out'}", "train.workers.num_workers=500", "baselines={}")
    said = refused(*impossible("sweep", "sweep.toml", *settings))
    assert "500 workers take 1 CPU each, 500 CPUs in all, and the cluster has room for" in said
    assert "lower train.workers.num_workers or what each of them takes, or join a larger cluster" in said


def test_what_is_done_needs_no_room(ray_here, tmp_path):
    cluster = ClusterSpec(cpus_per_actor=1000)
    staging = open_staging(tmp_path / "out", {})
    assert not run_tasks([], dict, staging=staging, cluster=cluster, stage="work", report=silent)


def test_a_job_that_runs_says_nothing_of_waiting(ray_here, monkeypatch):
    monkeypatch.setattr(resources, "LOOK_S", 0.05)
    monkeypatch.setattr(resources, "FIRST_SAID_S", 0.2)
    told = []

    @ray.remote(num_cpus=0.1)
    class Process:
        def name(self):
            return "Process"

    process = Process.remote()
    ray.get(process.name.remote())
    request = ClusterSpec().request
    with room_for(request, process="Process", report=told.append):
        time.sleep(1)
    assert not told
    with room_for(request, process="Another", report=told.append):
        wait_for(lambda: told)
    assert told[0].note.startswith("waits for room: a worker takes 1 CPU; others use what there is, or it is about to")
    ray.kill(process)
    assert "cisray-room" not in {thread.name for thread in threading.enumerate()}


def test_a_training_on_gpus_that_are_not_there_is_refused(refused, dataset, store, tmp_path):
    settings = (f"dataset={dataset}", f"out={tmp_path / 'out'}", "workers.num_workers=2", "workers.use_gpu=true")
    said = refused(*impossible("train", "train.toml", *settings, "workers.accelerator_type=H100"))
    assert "each, 2 CPUs, 2 GPUs in all, and no node has 1 GPU or an accelerator H100" in said
    assert "change workers.use_gpu and workers.accelerator_type, or join a cluster whose nodes have more" in said
