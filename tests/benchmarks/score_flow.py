"""Does scoring under Ray keep the engine busy, and do two workers do twice the work of one?

`flows.score` over random SNVs of a simulated genome, by the tiny network (untrained, but with norms that let effects
through), both strands, from reading the VCF to the finished table. `engine_share` is the engine's time, summed over
workers, as a share of workers times wall time: the rest is planning, reading, laying out rows, writing, and Ray. The
cluster is up beforehand; a worker's start is part of it. One worker scores a part of the variants, two score them all:
`two_workers.ratio` is of their rates.
"""

import dataclasses
import os
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _genome import JOBS, scratch_folder, simulate_genome, tiny_build_job
from _network import settle
from _table import Options, finish, print_table, read_options, seconds_of

from cisray.bundle import build_network, write_bundle
from cisray.config import load_job
from cisray.datasets.card import Card, read_card
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.score import score
from cisray.flows.score_job import ScoreJob
from cisray.flows.train_job import TrainJob
from cisray.genome.reference import Reference
from cisray.scoring.manifest import ModelSource
from cisray.scoring.run_record import RunRecord, read_run

GENOME_BP = 400_000
HELD_OUT_BP = 50_000
VARIANTS = 100_000
PART = 0.2
"""Of the variants, what one worker scores."""


def write_variants(path: Path, reference: Reference, count: int) -> Path:
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
    return path


def write_model(path: Path, card: Card) -> Path:
    """Write a bundle of the tiny network."""
    config = load_job(JOBS / "train.toml", TrainJob).model
    torch.manual_seed(0)
    network = build_network(config, geometry=card.geometry, num_tracks=len(card.tracks))
    codes = torch.randint(0, 4, (64, card.geometry.window_bp), dtype=torch.uint8)
    weights = settle(network, codes).state_dict()
    write_bundle(path, weights=weights, config=config, cards=card, metrics={}, objective="poisson")
    return path


class Flow:
    """The flow over a file of variants, into a new folder each time."""

    def __init__(self, job: ScoreJob, *, variants: int, workers: int) -> None:
        self.job = dataclasses.replace(job, cluster=ClusterSpec(actors=workers))
        self.variants = variants
        self.workers = workers
        self.seconds: list[float] = []
        self.records: list[RunRecord] = []

    def __call__(self) -> None:
        """Score the variants, and note the seconds and what the run says of itself."""
        out = Path(f"{self.job.out}-{self.workers}-{len(self.seconds)}")
        models = {Path(self.job.model): ModelSource(uri=self.job.model, digest="of this benchmark")}
        self.seconds.append(seconds_of(lambda: score(dataclasses.replace(self.job, out=str(out)), models=models)))
        record = read_run(out)
        assert record is not None
        self.records.append(record)

    @property
    def rate(self) -> float:
        """Variants a second, the median of the runs."""
        return self.variants / median(self.seconds)

    @property
    def engine_share(self) -> float:
        """The engine's part of the workers' wall time, the median of the runs."""
        shares = [
            record.engine_s / (self.workers * seconds)
            for record, seconds in zip(self.records, self.seconds, strict=True)
        ]
        return median(shares)


def compare(folder: Path, options: Options) -> dict[str, float]:
    """Score by one worker and by two, and print both."""
    genome_dir = simulate_genome(folder / "genome", train_bp=GENOME_BP, held_out_bp=HELD_OUT_BP)
    reference = Reference(genome_dir / "genome.fa")
    dataset_dir = build(tiny_build_job(genome_dir, folder / "dataset"))
    model = write_model(folder / "model", read_card(dataset_dir))
    flows = {}
    for workers, count in ((1, options.scaled(round(VARIANTS * PART))), (2, options.scaled(VARIANTS))):
        variants = write_variants(folder / f"{count}.vcf", reference, count)
        job = ScoreJob(
            variants=str(variants),
            fasta=str(genome_dir / "genome.fa"),
            model=str(model),
            out=str(folder / "scores"),
        )
        flows[workers] = Flow(job, variants=count, workers=workers)
    for _ in range(options.repeats):
        for flow in flows.values():
            flow()
    rows = [
        [
            f"{workers}",
            f"{flow.variants:,}",
            f"{median(flow.seconds):.1f}",
            f"{flow.rate:,.0f}",
            f"{flow.engine_share:.3f}",
        ]
        for workers, flow in flows.items()
    ]
    print_table(
        "both strands, from the VCF to the table", ["workers", "variants", "s", "variants/s", "in engine"], rows
    )
    return {
        "score_flow.one_worker.variants_per_s": flows[1].rate,
        "score_flow.two_workers.variants_per_s": flows[2].rate,
        "score_flow.two_workers.ratio": flows[2].rate / flows[1].rate,
        "score_flow.engine_share": flows[2].engine_share,
    }


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=1)
    with scratch_folder() as folder, cluster(ClusterSpec(num_cpus=max(4, (os.cpu_count() or 1) + 2))):
        finish("score_flow", compare(folder, options))


if __name__ == "__main__":
    main()
