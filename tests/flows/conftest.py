"""One simulated genome, one Ray, one dataset and one model for all tests that need them."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from cisray.config import load_job
from cisray.flows.build import BuildJob, build
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.train import TrainJob, train
from cisray.genome.simulate import SimulationSpec, simulate

JOBS = Path(__file__).parents[2] / "jobs" / "tiny"
SPEC = SimulationSpec(
    contig_lengths={"sim1": 300_000, "sim2": 200_000, "sim3": 60_000, "sim4": 60_000}, num_variants=600
)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A simulated genome of 620 kb with its tracks, variants and truth."""
    folder = tmp_path_factory.mktemp("simulated") / "genome"
    simulate(folder, spec=SPEC)
    return folder


@pytest.fixture(scope="session")
def ray_here():
    """The one Ray of this test session."""
    with cluster(ClusterSpec(num_cpus=4, object_store_mb=256)):
        yield


@pytest.fixture(scope="session")
def build_job(simulated):
    """The tiny dataset's job on that genome, cut into many shards."""

    def make(out, **changes):
        job = load_job(
            JOBS / "dataset.toml", BuildJob, [f"data_dir={simulated}", f"out={out}", "windows.shard_bp=20000"]
        )
        return dataclasses.replace(job, **changes)

    return make


@pytest.fixture(scope="session")
def dataset(ray_here, build_job, tmp_path_factory):
    """A built dataset, which no test changes."""
    return build(build_job(tmp_path_factory.mktemp("dataset") / "dataset"))


@pytest.fixture(scope="session")
def train_job(dataset):
    """A job that trains a small network for two short epochs."""

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
        )
        return load_job(JOBS / "train.toml", TrainJob, [*settings, *overrides])

    return make


@pytest.fixture(scope="session")
def bundle(train_job, tmp_path_factory):
    """A bundle trained on that dataset by an undisturbed run."""
    trained = train(train_job(tmp_path_factory.mktemp("bundle") / "model"))
    return trained.bundle_dir


@pytest.fixture(scope="session")
def bytes_of():
    """Say what is in a folder: every file's path and checksum."""

    def read(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }

    return read
