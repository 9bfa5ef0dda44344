"""End machines of a cluster, and all of it, and go on with the same job elsewhere."""

import hashlib
import subprocess
import sys

import pytest

from cisray.datasets.reading import read_epoch, read_order
from cisray.datasets.schema import layout_of
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec
from cisray.flows.train import train
from cisray.geometry import Geometry
from killing import bare_environment, compare_histories, driven, has_checkpoint, num_receipts, own_cluster

pytestmark = pytest.mark.ray
READ = """
import hashlib, sys
from pathlib import Path

from cisray.datasets.card import read_card
from cisray.datasets.reading import read_order
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.feed import read_through_ray

folder = Path(sys.argv[1])
card, digest = read_card(folder), hashlib.sha256()
with cluster(ClusterSpec(object_store_mb=80)):
    order = read_order(folder, card, "train", seed=3)
    for batch in read_through_ray(order, 1, card, batch_size=64):
        digest.update(batch.codes.numpy().tobytes())
print(digest.hexdigest())
"""


def test_a_build_whose_cluster_lost_its_head_says_so_and_goes_on_elsewhere(
    ray_here, build_job, dataset, tmp_path, bytes_of
):
    out = tmp_path / "dataset"
    two = ({"num_cpus": 2}, {"num_cpus": 2})
    with (
        own_cluster(*two, RAY_gcs_rpc_server_reconnect_timeout_s="20") as nodes,
        nodes.drive(build, build_job(out)) as driver,
    ):
        driver.wait_until(lambda: num_receipts(out) >= 3)
        nodes.processes("gcs_server")[0].kill()
        ended = driver.end()
    assert ended.code == 1
    told = (
        f"cisray: the head of the Ray cluster at {nodes.address} has not answered for 16 s; what was finished is kept"
    )
    assert told in ended.told
    assert "Traceback" not in ended.told
    assert not out.exists()
    kept, already_done = num_receipts(out), []
    build(build_job(out), report=lambda progress: already_done.append(progress.figures.get("already_done", 0)))
    assert already_done[0] == kept >= 3
    assert bytes_of(out) == bytes_of(dataset)


def test_a_build_whose_machine_lost_its_part_of_the_cluster_says_so_and_goes_on_elsewhere(
    ray_here, build_job, dataset, tmp_path, bytes_of
):
    out = tmp_path / "dataset"
    with own_cluster({"num_cpus": 3}) as nodes, nodes.drive(build, build_job(out)) as driver:
        driver.wait_until(lambda: num_receipts(out) >= 3)
        nodes.processes("raylet")[0].kill()
        ended = driver.end()
    assert ended.code == 1
    told = (
        f"this machine's part of the Ray cluster at {nodes.address} has not answered for 5 s; what was finished is kept"
    )
    assert told in ended.told
    assert "Traceback" not in ended.told
    assert not out.exists()
    build(build_job(out))
    assert bytes_of(out) == bytes_of(dataset)


def test_a_training_of_two_workers_whose_node_died_goes_on_where_there_is_room(ray_here, train_job, tmp_path):
    def job(name):
        return train_job(tmp_path / name, "workers.num_workers=2")

    train(job("undisturbed"))
    with (
        own_cluster({"num_cpus": 1}, {"num_cpus": 4}) as nodes,
        nodes.drive(train, job("model")) as driver,
    ):
        driver.wait_until(lambda: has_checkpoint(tmp_path / "model"))
        nodes.processes("raylet")[1].kill()
        nodes.add(num_cpus=4, object_store_memory=100 << 20)
        ended = driver.end(seconds=240)
    assert ended.code == 0, ended.told
    compare_histories(tmp_path / "model", tmp_path / "undisturbed")


def test_a_build_with_the_smallest_object_store_ends_with_the_same_bytes(build_job, dataset, tmp_path, bytes_of):
    out = tmp_path / "dataset"
    job = build_job(out, cluster=ClusterSpec(object_store_mb=80))
    with driven(build, job, environment=bare_environment()) as driver:
        ended = driver.end()
    assert (ended.code, ended.told) == (0, "")
    assert bytes_of(out) == bytes_of(dataset)


def test_a_pool_larger_than_the_object_store_is_read_all_the_same(make_dataset):
    geometry = Geometry(window_bp=1 << 17, bin_bp=1 << 12, crop_bins=0, margin_bp=0)
    folder, card = make_dataset({"train": [800]}, row_group_rows=100, geometry=geometry)
    order = read_order(folder, card, "train", seed=3)
    assert [pool.rows for pool in order.pools(1)] == [800]  # 100 MiB, read at once
    digest = hashlib.sha256()
    for examples in read_epoch(order, 1, layout_of(card), batch_size=64):
        digest.update(examples.codes.tobytes())
    environment = bare_environment()
    told = subprocess.run(
        [sys.executable, "-c", READ, folder], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    assert told.stdout.strip() == digest.hexdigest()
