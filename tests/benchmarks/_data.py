"""Make what several benchmarks need: a simulated genome's jobs, and a network whose layers all matter."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from cisray.config import load_job
from cisray.flows.build import BuildJob
from cisray.genome.simulate import SimulationSpec, simulate

JOBS = Path(__file__).parents[2] / "jobs" / "tiny"


def simulate_genome(folder: Path, *, train_bp: int, held_out_bp: int) -> Path:
    """Simulate a genome of four tracks and no variants: one contig to train on, one each for validation and test."""
    lengths = {"sim1": train_bp, "sim3": held_out_bp, "sim4": held_out_bp}
    simulate(folder, spec=SimulationSpec(contig_lengths=lengths, num_variants=0))
    return folder


def tiny_build_job(genome_dir: Path, out: Path, **changes: object) -> BuildJob:
    """Return the job that builds the tiny dataset of a simulated genome."""
    job = load_job(JOBS / "dataset.toml", BuildJob, [f"data_dir={genome_dir}", f"out={out}"])
    return dataclasses.replace(job, **changes)


@torch.no_grad()
def settle(network: nn.Module, codes: Tensor) -> nn.Module:
    """Give a fresh network norms as a trained one has them, so that every layer passes on what changes.

    Fresh norms make deep layers vanish and residual blocks do nothing, and scores would be rounding alone.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = 1.0
    network.train()(codes)
    return network.eval()
