"""Inputs and outputs in a bucket: the same bytes as in a folder, and known again on a machine that has neither."""

import dataclasses
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from cisray.errors import InputError
from cisray.flows.build import build
from cisray.flows.evaluate import EvaluateJob, evaluate
from cisray.flows.train import train
from cisray.remote import place_of_out
from cisray.scoring.manifest import read_manifest
from object_store import served_bucket
from whole_program import JOBS

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, served_bucket(patch) as store:
        yield store


@pytest.fixture(scope="module")
def own_cache_of_uris(tmp_path_factory):
    """A cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CISRAY_CACHE", str(tmp_path_factory.mktemp("uris")))
        yield


@pytest.fixture(scope="module")
def data_uri(bucket, simulated):
    return bucket.put_folder(simulated, "simulated")


@pytest.fixture(scope="module")
def dataset_uri(bucket, dataset):
    return bucket.put_folder(dataset, "dataset")


@pytest.fixture(scope="module")
def ridge_uri(bucket, ridge):
    return bucket.put_folder(ridge, "ridge")


def brought(bucket, key, folder):
    """Write what is in the bucket into a folder."""
    for name in bucket.names(key):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get(f"{key}/{name}"))
    return folder


def test_a_dataset_is_built_from_a_bucket_into_a_bucket(
    bucket, data_uri, build_job, dataset, tmp_path, bytes_of, monkeypatch
):
    out = "s3://bucket/runs/built"
    command = [sys.executable, "-m", "cisray", "build", str(JOBS / "dataset.toml"), "--set", f"data_dir={data_uri}"]
    command += ["--set", f"out={out}", "--set", "windows.shard_bp=20000"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"CISRAY_CACHE": str(tmp_path / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    built = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert built.returncode == 0, built.stderr[-3000:]
    assert built.stdout == f"dataset: {out}\n"
    there = brought(bucket, "runs/built", tmp_path / "brought")
    # the plan says when inputs were written, which was later in the bucket
    assert {**bytes_of(there), ".plan.json": ""} == {**bytes_of(dataset), ".plan.json": ""}
    # on another machine, which has nothing in its cache
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "other"))
    reports = []
    fetched = build(build_job(out, data_dir=data_uri), report=reports.append)
    assert reports == []
    assert fetched == tmp_path / "other/outputs/s3/bucket/runs/built"
    assert bytes_of(fetched) == bytes_of(there)


def test_another_output_in_a_bucket_is_refused_before_any_work(bucket, build_job, own_cache_of_uris, ray_here):
    bucket.put("runs/taken/.plan.json", b'{"digest": "other"}')
    with pytest.raises(InputError, match=r"s3://bucket/runs/taken: holds something else, not made by this job as it"):
        build(build_job("s3://bucket/runs/taken"))
    with pytest.raises(InputError, match=r"s3://nobucket/runs/x: cannot be written: .*NO_SUCH_BUCKET"):
        build(build_job("s3://nobucket/runs/x"))
    assert bucket.names("runs/taken") == {".plan.json"}


def test_an_interrupted_publishing_is_ended_by_the_same_job(
    bucket, build_job, dataset, own_cache_of_uris, ray_here, tmp_path, bytes_of, monkeypatch
):
    job = build_job(f"s3://bucket/runs/{uuid.uuid4().hex}")
    key = job.out.removeprefix("s3://bucket/")
    with monkeypatch.context() as patch:
        patch.setattr("cisray.remote._copy_there", lambda *_: (_ for _ in ()).throw(OSError("connection reset")))
        with pytest.raises(InputError, match=r"cannot be written: connection reset; credentials come from"):
            build(job)
    assert bucket.names(key) == {".publishing.json"}
    assert bytes_of(place_of_out(job.out)) == bytes_of(dataset)
    reports = []
    build(job, report=reports.append)
    assert reports == []
    assert bytes_of(brought(bucket, key, tmp_path / "brought")) == bytes_of(dataset)


def test_a_model_is_trained_and_measured_in_a_bucket(
    bucket, dataset_uri, ridge_job, ridge, dataset, own_cache_of_uris, tmp_path
):
    trained = train(ridge_job("s3://bucket/runs/ridge", f"dataset={dataset_uri}"))
    assert not trained.was_done
    there = brought(bucket, "runs/ridge", tmp_path / "ridge")
    assert (there / "weights.safetensors").read_bytes() == (ridge / "weights.safetensors").read_bytes()
    assert train(ridge_job("s3://bucket/runs/ridge", f"dataset={dataset_uri}")).was_done
    job = EvaluateJob(model="s3://bucket/runs/ridge", dataset=dataset_uri, out="s3://bucket/runs/evaluation")
    evaluate(job)
    local = evaluate(dataclasses.replace(job, model=str(ridge), dataset=str(dataset), out=str(tmp_path / "local")))
    texts = (bucket.get("runs/evaluation/evaluation.json"), (local / "evaluation.json").read_bytes())
    ours, theirs = map(json.loads, texts)
    for one in (ours, theirs):
        one["models"]["model"].pop("path")
    assert ours == theirs
    assert {".plan.json", "card.json"} < bucket.names("runs/evaluation")


def test_the_command_line_scores_with_a_bundle_in_a_bucket(
    bucket, cisray, ridge_uri, simulated, own_cache_of_uris, store, tmp_path, ray_here
):
    job = tmp_path / "score.toml"
    job.write_text(
        f'variants = "variants.vcf"\nfasta = "genome.fa"\ndata_dir = "{simulated}"\nmodel = "{ridge_uri}"\n'
        'out = "s3://bucket/runs/scores"\n[export]\nvcf = true\n'
    )
    done = cisray("score", job)
    assert done.code == 0, done.err
    assert done.out.endswith("score table: s3://bucket/runs/scores\n")
    there = brought(bucket, "runs/scores", tmp_path / "brought")
    assert read_manifest(there).model.uri == ridge_uri
    assert (there / "scores.vcf.gz").exists()
    assert cisray("score", job).out == "already scored: s3://bucket/runs/scores\n"


def test_the_command_line_measures_a_bundle_in_a_bucket(
    bucket, cisray, ridge_uri, dataset_uri, own_cache_of_uris, store, ray_here
):
    done = cisray("evaluate", ridge_uri, dataset_uri, "--out", "s3://bucket/runs/measured")
    assert done.code == 0, done.err
    assert done.out == "evaluation: s3://bucket/runs/measured\n"
    assert "evaluation.json" in bucket.names("runs/measured")


@pytest.mark.parametrize(
    "line",
    [
        ("simulate", "s3://bucket/x"),
        ("export", "dataset", "--out", "s3://bucket/x"),
        ("importance", "model", "dataset", "--out", "s3://bucket/x"),
        ("mine", "model", "job.toml", "--out", "s3://bucket/x"),
    ],
)
def test_verbs_that_write_to_folders_only_refuse_a_uri(cisray, store, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cisray(*line)
    assert done.code == 2
    assert "is a URI, and this verb writes to folders; name a folder, and copy it afterwards" in done.err
    assert not list(Path(tmp_path).iterdir())
