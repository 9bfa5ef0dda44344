"""One simulated genome, one Ray, one MLflow store, one dataset and two models for all tests that run the whole program.

A plugin, because tests of flows, tracking, jobs and the command line share them. What is heavy is imported inside the
fixtures: the core tests load this file too, and need neither Ray nor MLflow.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

JOBS = Path(__file__).parents[1] / "jobs" / "tiny"
LENGTHS = {"sim1": 300_000, "sim2": 200_000, "sim3": 60_000, "sim4": 60_000}


class Outcome(NamedTuple):
    """How a call of the command line ended, and what it printed."""

    code: int
    out: str
    err: str

    def paths(self) -> list[Path]:
        """Return the files and folders that the lines `what: path` name."""
        return [Path(found) for found in re.findall(r"^[a-z][a-zA-Z, ]*: (?:sqlite://)?(/.*)$", self.out, re.MULTILINE)]


def read_fasta(path: Path) -> dict[str, str]:
    """Return the bases of every contig, read without cisray."""
    records = [record.split("\n", 1) for record in path.read_text().split(">")[1:]]
    return {name: bases.replace("\n", "") for name, bases in records}


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    """Keep what is cached of genomes away from the user's; Ray's workers learn of it when they are started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CISRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def ray_here(own_cache):
    """The one Ray of this test session."""
    from cisray.flows.cluster import ClusterSpec, cluster

    with cluster(ClusterSpec(num_cpus=max(4, (os.cpu_count() or 1) + 2), object_store_mb=256)):
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The one MLflow store of this test session, empty; each test has experiments and models of its own."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = MlflowClient(uri)
        client.search_experiments()  # makes the tables, which takes seconds
        yield client


@pytest.fixture(scope="session")
def cisray():
    """Call the command line in this process, where Ray is up already."""

    def call(*arguments: object) -> Outcome:
        from cisray.cli.app import main

        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", ["cisray", *map(str, arguments)])
            try:
                main()
            except SystemExit as ended:
                return Outcome(int(ended.code or 0), out.getvalue(), err.getvalue())
        raise AssertionError("the program did not end with an exit code")

    return call


@pytest.fixture(scope="session")
def simulated(own_cache, tmp_path_factory):
    """A simulated genome of 620 kb with its tracks, variants and truth."""
    from cisray.genome.simulate import SimulationSpec, simulate

    folder = tmp_path_factory.mktemp("simulated") / "genome"
    simulate(folder, spec=SimulationSpec(contig_lengths=LENGTHS, num_variants=600))
    return folder


@pytest.fixture(scope="session")
def build_job(simulated):
    """The tiny dataset's job on that genome, cut into many shards."""
    from cisray.config import load_job
    from cisray.flows.build import TracksJob

    def make(out, **changes):
        overrides = [f"data_dir={simulated}", f"out={out}", "windows.shard_bp=20000"]
        return dataclasses.replace(load_job(JOBS / "dataset.toml", TracksJob, overrides), **changes)

    return make


@pytest.fixture(scope="session")
def dataset(ray_here, build_job, tmp_path_factory):
    """A built dataset, which no test changes."""
    from cisray.flows.build import build

    return build(build_job(tmp_path_factory.mktemp("dataset") / "dataset"))


@pytest.fixture(scope="session")
def train_job(dataset):
    """A job that trains a small network for two short epochs."""
    from cisray.config import load_job
    from cisray.flows.train_job import TrainJob

    def make(out, *overrides):
        settings = (
            f"dataset={dataset}",
            f"out={out}",
            "training.epochs=2",
            "training.precision=float32",
            "model.stem_channels=16",
            "model.channels=16",
            "model.dilated_layers=1",
            "training.checkpoint_steps=8",
            "workers.cpus_per_worker=1",
        )
        return load_job(JOBS / "train.toml", TrainJob, [*settings, *overrides])

    return make


@pytest.fixture(scope="session")
def bundle(train_job, tmp_path_factory):
    """A bundle trained on that dataset by an undisturbed run."""
    from cisray.flows.train import train

    return train(train_job(tmp_path_factory.mktemp("bundle") / "model")).bundle_dir


@pytest.fixture(scope="session")
def two_heads(dataset, tmp_path_factory):
    """A bundle whose heads are of the dataset's tracks, and of the first of them, with weights drawn at random."""
    import torch

    from cisray.bundle import build_network, head_tracks, shared_geometry, write_bundle
    from cisray.datasets.card import read_card
    from cisray.models.basenji2 import Basenji2Config

    card = read_card(dataset)
    alone = dataclasses.replace(card, tracks=card.tracks[:1], regions=card.regions | {"train": ["sim1:0-1000"]})
    cards = {"human": alone, "mouse": card}
    config = Basenji2Config(stem_channels=8, channels=8, dilated_layers=1, dilated_channels=8, head_channels=8)
    torch.manual_seed(0)
    network = build_network(config, geometry=shared_geometry(cards), num_tracks=head_tracks(cards))
    folder = tmp_path_factory.mktemp("heads") / "two"
    metrics = {"num_parameters": 1, "history": []}
    write_bundle(folder, weights=network.state_dict(), config=config, cards=cards, metrics=metrics, objective="poisson")
    return folder


@pytest.fixture
def of_one_strand(tmp_path):
    """Copy a bundle as if it had been trained to read the forward strand only."""

    def copy(bundle):
        folder = shutil.copytree(bundle, tmp_path / "of_one_strand")
        model = json.loads((folder / "model.json").read_text())
        model["made_by"]["training"]["reverse_complement"] = False
        (folder / "model.json").write_text(json.dumps(model))
        return folder

    return copy


@pytest.fixture(scope="session")
def ridge_job(dataset):
    """A job that fits a small linear baseline."""
    from cisray.config import load_job
    from cisray.flows.train_job import TrainJob

    def make(out, *overrides):
        settings = (f"dataset={dataset}", f"out={out}", "model.k=3", "model.contexts_bp=[64]")
        return load_job(JOBS / "baseline.toml", TrainJob, [*settings, "workers.cpus_per_worker=1", *overrides])

    return make


@pytest.fixture(scope="session")
def ridge(ridge_job, tmp_path_factory):
    """The linear baseline of that dataset."""
    from cisray.flows.train import train

    return train(ridge_job(tmp_path_factory.mktemp("ridge") / "model")).bundle_dir


@pytest.fixture(scope="session")
def evaluation(dataset, bundle, ridge, tmp_path_factory):
    """Both models measured on the test split, with bigWigs."""
    from cisray.flows.evaluate import EvaluateJob, evaluate

    out = tmp_path_factory.mktemp("evaluation") / "evaluation"
    job = EvaluateJob(model=str(bundle), beside=str(ridge), dataset=str(dataset), out=str(out), bigwig=True)
    return evaluate(job)


@pytest.fixture(scope="session")
def bytes_of():
    """Say what is in a folder: every file's path and checksum."""

    def read(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and path.name != "run.json"  # which says when and where, and nothing of the result
        }

    return read
