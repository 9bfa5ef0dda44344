import contextlib
import os
import threading

import psutil
import pytest
import ray

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec, cluster, relayed
from cisray.progress import Progress

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("wrong", [{"actors": 0}, {"object_store_mb": 79}])
def test_a_cluster_that_cannot_work_is_refused(wrong):
    with pytest.raises(InputError, match="wanted at least 1 actor and 80 MB"):
        check_settings(wrong, ClusterSpec, source="job.toml")


def test_there_are_never_more_actors_than_shards_or_cpus(ray_here):
    cores = os.cpu_count()
    assert ClusterSpec(actors=5).num_actors(3) == 3
    assert ClusterSpec(actors=5).num_actors(9) == 5
    assert ClusterSpec().num_actors(1000) == cores
    assert ClusterSpec(cpus_per_actor=0.5).num_actors(1000) == 2 * cores
    assert ClusterSpec(cpus_per_actor=1000).num_actors(1000) == 1
    assert ClusterSpec().num_actors(1) == 1


def test_a_small_part_of_a_large_machine_is_not_taken_for_the_whole(ray_here, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    assert ClusterSpec().num_actors(1000) == 7
    assert ClusterSpec(cpus_per_actor=2).num_actors(1000) == 3


def test_a_ray_that_is_up_is_joined_and_left_up(ray_here):
    before = ray.get_runtime_context().get_node_id()
    with cluster(ClusterSpec(num_cpus=99)):
        assert ray.get_runtime_context().get_node_id() == before
    assert ray.is_initialized()


def test_a_cluster_started_here_has_room_for_readers_beside_workers_that_take_every_cpu(monkeypatch):
    started = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: started.update(settings))
    monkeypatch.setattr(ray, "shutdown", lambda: started.update(ended=True))
    monkeypatch.setattr("cisray.flows.cluster.told_if_lost", contextlib.nullcontext)  # there is nothing to watch
    with cluster(ClusterSpec()):
        assert started["num_cpus"] > 16
        assert started["address"] == "local"
    assert started["ended"]


def test_a_cluster_started_here_is_open_to_this_machine_and_this_user_only(ray_here):
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    # Asked of the machine at once: a worker may end while one process after the other is asked.
    listening = [each for each in psutil.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN]
    addresses = {each.laddr.ip for each in listening if each.pid in ours}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32


def test_what_a_worker_reports_reaches_the_driver_whole_and_in_order(ray_here):
    told, threads = [], set()

    def report(progress):
        told.append(progress)
        threads.add(threading.current_thread().name)

    @ray.remote
    def work(report):
        for step in range(100):
            report(Progress("train", step, 100, "steps", {"loss": step / 7}))

    with relayed(report) as remote_report:
        ray.get(work.remote(remote_report))
    assert told == [Progress("train", step, 100, "steps", {"loss": step / 7}) for step in range(100)]
    assert threads == {"cisray-report"}


def test_the_listener_ends_with_its_block_even_after_an_error(ray_here):
    told = []

    def fail(remote_report):
        remote_report(Progress("train", 1, 2, "steps"))
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"), relayed(told.append) as remote_report:
        fail(remote_report)
    assert [progress.done for progress in told] == [1]
    assert "cisray-report" not in {thread.name for thread in threading.enumerate()}
