"""How much faster is `flows.score` than scoring one variant at a time, and does it find the same?

The usual way reads a record, cuts its two windows, and runs the model on each alone. Both ways use the same model
(the tiny network, untrained but with norms that let effects through) and the forward strand. The flow has a process
of one thread per core; the usual way is one process, with one thread, and with a thread per core as torch starts.
`ratio` is against the better of these two. Ray's start, and that of the worker processes, stand apart.
"""

import dataclasses
import os
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _genome import JOBS, scratch_folder, simulate_genome, tiny_build_job
from _network import settle
from _table import (
    Marks,
    Options,
    finish,
    interleave,
    print_rates,
    print_table,
    read_options,
    seconds_of,
    steady_rate,
)

from cisray.bundle import Predictor, build_network, write_bundle
from cisray.config import load_job
from cisray.datasets.card import Card, read_card
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.score import ScoreJob, score
from cisray.flows.train import TrainJob
from cisray.genome.reference import Reference
from cisray.genome.variants import read_variants
from cisray.scoring.alleles import Status, classify, window_pair
from cisray.scoring.effects import SCORES
from cisray.scoring.schema import ModelSource, read_scores, score_values

GENOME_BP = 400_000
HELD_OUT_BP = 50_000
VARIANTS = 6_000
ALONE = 300
"""Variants that are scored one at a time."""
BLOCK_ROWS = 252  # four forwards of 63 pairs and a null variant
MAX_ALLELE_BP = 100


def write_variants(path: Path, reference: Reference, count: int) -> None:
    """Write random SNVs of the first contig, in order."""
    random = np.random.default_rng(0)
    contig, length = next(iter(reference.contig_lengths.items()))
    bases = reference.bases(contig, 0, length)
    positions = np.sort(random.choice(length, count, replace=False))
    lines = ["##fileformat=VCFv4.2", f"##contig=<ID={contig},length={length}>", "#CHROM\tPOS\tID\tREF\tALT"]
    lines[-1] += "\tQUAL\tFILTER\tINFO"
    for position, draw in zip(positions, random.integers(0, 3, count), strict=True):
        ref = bases[position]
        lines.append(f"{contig}\t{position + 1}\t.\t{ref}\t{'ACGT'.replace(ref, '')[draw]}\t.\t.\t.")
    path.write_text("\n".join([*lines, ""]), encoding="ascii")


def make_bundle(path: Path, card: Card) -> Path:
    """Write a bundle of the tiny network."""
    config = load_job(JOBS / "train.toml", TrainJob).model
    torch.manual_seed(0)
    network = build_network(config, geometry=card.geometry, num_tracks=len(card.tracks))
    codes = torch.randint(0, 4, (64, card.geometry.window_bp), dtype=torch.uint8)
    write_bundle(
        path, weights=settle(network, codes).state_dict(), config=config, card=card, metrics={}, objective="poisson"
    )
    return path


class OneAtATime:
    """The usual way: a record, two windows, two forwards of one row each."""

    def __init__(self, genome_dir: Path, bundle_dir: Path, *, variants: int, threads: int) -> None:
        self.threads = threads
        self.predictor = Predictor(bundle_dir)
        self.reference = Reference(genome_dir / "genome.fa")
        self.path = genome_dir / "variants.vcf"
        self.num_variants = variants
        self.rates: list[float] = []
        self.values: dict[str, np.ndarray] = {}
        """Per score [V, T], of the last run."""

    def __call__(self) -> None:
        """Score the variants, and note the rate."""
        torch.set_num_threads(self.threads)
        found: dict[str, list[torch.Tensor]] = {name: [] for name in SCORES}
        self.rates.append(self.num_variants / seconds_of(partial(self._score, found)))
        self.values = {name: torch.cat(parts).numpy() for name, parts in found.items()}

    def _score(self, found: dict[str, list[torch.Tensor]]) -> None:
        window_bp = self.predictor.card.geometry.window_bp
        for variant in islice(read_variants(self.path), self.num_variants):
            status = classify(variant, variant.contig, self.reference, max_allele_bp=MAX_ALLELE_BP)
            if status is not Status.OK:
                raise ValueError(f"{variant} is {status}; all variants of this benchmark can be scored")
            pair = window_pair(variant, variant.contig, self.reference, window_bp=window_bp)
            reference = self.predictor(torch.from_numpy(pair.reference_codes[None].copy()))
            alternate = self.predictor(torch.from_numpy(pair.alternate_codes[None].copy()))
            for name, one in SCORES.items():
                found[name].append(one.function(reference, alternate))


class Flow:
    """The flow over all variants, into a new folder each time."""

    def __init__(self, job: ScoreJob, *, workers: int) -> None:
        self.job = dataclasses.replace(job, cluster=ClusterSpec(actors=workers))
        self.workers = workers
        self.rates: list[float] = []
        self.seconds: list[float] = []
        self.out = Path()

    def __call__(self) -> None:
        """Score the variants, and note the seconds and the steady rate."""
        self.out = Path(f"{self.job.out}{len(self.rates)}")
        marks = Marks()
        job = dataclasses.replace(self.job, out=str(self.out))
        run = partial(score, job, bundle_dir=Path(job.model), model=ModelSource(uri="", digest=""), report=marks)
        self.seconds.append(seconds_of(run))
        blocks = [(when, told.figures["rows"]) for when, told in marks.told if "rows" in told.figures]
        self.rates.append(steady_rate(blocks, workers=self.workers))


def print_differences(flow: Flow, alone: OneAtATime) -> dict[str, float]:
    """Print how far the scores of both ways lie apart."""
    table = read_scores(flow.out)
    rows, figures = [], {}
    for name in SCORES:
        values = score_values(table, name)[0][: alone.num_variants]
        difference, largest = float(np.abs(values - alone.values[name]).max()), float(np.abs(values).max())
        rows.append([name, f"{largest:.3g}", f"{difference:.1e}", f"{difference / largest:.1e}"])
        figures[f"{name}.largest_difference"] = difference
        figures[f"{name}.largest_relative_difference"] = difference / largest
    title = f"largest difference between both ways, {alone.num_variants} variants"
    print_table(title, ["", "largest score", "absolute", "of the largest score"], rows)
    return figures


def compare(flow: Flow, alone: dict[str, OneAtATime], options: Options) -> dict[str, float]:
    """Time all ways, and hold their scores against each other."""
    interleave({"flow": flow, **alone}, repeats=options.repeats, warm_up=False)
    first, *_ = alone
    title = f"tiny network, {alone[first].predictor.card.geometry.window_bp} bp windows, forward strand"
    rates = {"flows.score, steady": flow.rates} | {name: one.rates for name, one in alone.items()}
    medians = print_rates(title, rates, unit="variants", against=first)
    steady, usual = medians["flows.score, steady"], max(medians[name] for name in alone)
    variants = read_scores(flow.out, ["pos"]).num_rows
    fixed_s = median(flow.seconds) - variants / steady
    print(f"  whole flow over {variants} variants: {median(flow.seconds):.1f} s, of which fixed {fixed_s:.1f} s")
    return {
        "flow.variants_per_s": steady,
        "one_at_a_time.variants_per_s": usual,
        "ratio": steady / usual,
        "flow.fixed_s": fixed_s,
    } | print_differences(flow, alone[first])


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=3)
    workers = os.cpu_count() or 1
    with scratch_folder() as folder:
        genome_dir = simulate_genome(folder / "genome", train_bp=GENOME_BP, held_out_bp=HELD_OUT_BP)
        count = options.scaled(VARIANTS, at_least=20 * BLOCK_ROWS)
        write_variants(genome_dir / "variants.vcf", Reference(genome_dir / "genome.fa"), count)
        here = cluster(ClusterSpec())
        start_s = seconds_of(here.__enter__)
        try:
            dataset_dir = build(tiny_build_job(genome_dir, folder / "dataset"))
            bundle_dir = make_bundle(folder / "model", read_card(dataset_dir))
            job = ScoreJob(
                variants="variants.vcf",
                fasta="genome.fa",
                model=str(bundle_dir),
                out=str(folder / "scores"),
                data_dir=str(genome_dir),
                strands="forward",
                block_rows=BLOCK_ROWS,
                max_allele_bp=MAX_ALLELE_BP,
            )
            variants = min(count, options.scaled(ALONE, at_least=50))
            alone = {
                f"one at a time, threads: {threads}": OneAtATime(
                    genome_dir, bundle_dir, variants=variants, threads=threads
                )
                for threads in sorted({1, workers})
            }
            figures = compare(Flow(job, workers=workers), alone, options)
        finally:
            here.__exit__(None, None, None)
        print(f"\n  Ray's own start, beforehand: {start_s:.1f} s")
    finish("score", {f"score.{key}": value for key, value in figures.items()} | {"score.ray_start_s": start_s})


if __name__ == "__main__":
    main()
