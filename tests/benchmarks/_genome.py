"""Make a simulated genome in a folder that goes away, and the job that builds the tiny dataset of it."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cisray.config import load_job
from cisray.flows.build import TracksJob
from cisray.genome.simulate import SimulationSpec, simulate

JOBS = Path(__file__).parents[2] / "jobs" / "tiny"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder that goes away at the end, and with it what cisray and its workers cache of its genomes."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["CISRAY_CACHE"] = str(Path(name) / "cache")
        yield Path(name)
        del os.environ["CISRAY_CACHE"]


def simulate_genome(folder: Path, *, train_bp: int, held_out_bp: int) -> Path:
    """Simulate a genome of four tracks and no variants: one contig to train on, one each for validation and test."""
    lengths = {"sim1": train_bp, "sim3": held_out_bp, "sim4": held_out_bp}
    simulate(folder, spec=SimulationSpec(contig_lengths=lengths, num_variants=0))
    return folder


def tiny_build_job(genome_dir: Path, out: Path, **changes: object) -> TracksJob:
    """Return the job that builds the tiny dataset of a simulated genome."""
    job = load_job(JOBS / "dataset.toml", TracksJob, [f"data_dir={genome_dir}", f"out={out}"])
    return dataclasses.replace(job, **changes)
