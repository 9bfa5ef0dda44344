"""How much faster are variants scored than by full forwards of each, and does one find the same?

Parts `enformer`, `basenji2`, `basset` and `bpnet`: `scoring.engine` against two full forwards per variant, batched and
compiled, in float32, at 1, 4, 16 and 128 variants per window; networks of full length and depth, Enformer at half and
Basenji2 at a quarter of its width. Full forwards cost a variant the same however many share its window: their rate is
measured once. `flop_ratio` is what counting the operations of both gives. Part `saturation`: every base and every other
letter of 100 bp in the middle of a BPNet window, likewise.

Part `flow`: `flows.score` against one variant at a time. The usual way reads a record, cuts its two windows, and runs
the model on each alone. Both ways use the same model (the tiny network, untrained but with norms that let effects
through) and the forward strand. The flow has a process of one thread per core; the usual way is one process, with one
thread, and with a thread per core as torch starts. `ratio` is against the better of these two. Ray's start, and that of
the worker processes, stand apart.
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
from _scoring import (
    PER_WINDOW,
    Case,
    FullForwards,
    count_flop,
    engine_seconds,
    largest_differences,
    some_windows,
    variants_of,
)
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
from cisray.flows.train_job import TrainJob
from cisray.genome.reference import Reference
from cisray.genome.variants import read_variants
from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config
from cisray.models.basset import BassetConfig
from cisray.models.bpnet import BPNetConfig
from cisray.models.enformer import EnformerConfig
from cisray.scoring.alleles import Status, classify, window_pair
from cisray.scoring.effects import SCORES
from cisray.scoring.engine import Engine
from cisray.scoring.saturation import saturate
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
        path, weights=settle(network, codes).state_dict(), config=config, cards=card, metrics={}, objective="poisson"
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


CASES = (
    Case(
        name="enformer",
        config=EnformerConfig(channels=768),
        geometry=Geometry(window_bp=196_608, bin_bp=128, crop_bins=320),
        num_tracks=5313,
        mask="center(501)",
        batch_size=16,
        full_batch=2,
        is_slow=True,
    ),
    Case(
        name="basenji2",
        config=Basenji2Config(stem_channels=72, channels=192, dilated_channels=96, head_channels=384),
        geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=64),
        num_tracks=5313,
        mask="center(501)",
        batch_size=16,
        full_batch=2,
    ),
    Case(
        name="basset",
        config=BassetConfig(),
        geometry=Geometry(window_bp=1000, bin_bp=200, crop_bins=2),
        num_tracks=164,
        mask="crop",
        batch_size=32,
        full_batch=32,
    ),
    Case(
        name="bpnet",
        config=BPNetConfig(),
        geometry=Geometry(window_bp=2000, bin_bp=1),
        num_tracks=8,
        mask="center(501)",
        batch_size=32,
        full_batch=32,
    ),
)
MUTATED_BP = 100


def contest(case: Case, options: Options) -> tuple[Engine, FullForwards, float]:
    """Make both contenders ready; return them, and the seconds of two full forwards per variant."""
    network = case.build(torch.device("cpu"))
    full = FullForwards(case, network, compiled=True)
    engine = case.engine(network, compiled=True)
    pairs = case.full_batch // 2
    list(engine.score(some_windows(case, per_window=1, count=1)))  # compiles
    full.score(variants_of(some_windows(case, per_window=pairs, count=1)))
    some = variants_of(some_windows(case, per_window=1, count=pairs * options.scaled(1 if case.is_slow else 4)))
    return engine, full, min(seconds_of(partial(full.score, some)) for _ in range(options.repeats)) / len(some)


def compare_engine(case: Case, options: Options) -> dict[str, float]:
    """Time the engine and full forwards, and hold their scores against each other."""
    engine, full, full_s = contest(case, options)
    forward, reference, alternate = count_flop(case)
    rows, figures = [], {"full_forwards.variants_per_s": 1 / full_s}
    for per_window in PER_WINDOW:
        seconds = min(engine_seconds(case, engine, per_window=per_window) for _ in range(options.repeats))
        counted = 2 * forward * per_window / (reference + per_window * alternate)
        ratio = full_s / seconds
        rows.append([str(per_window), f"{1 / seconds:.3g}", f"{ratio:.2f}", f"{counted:.2f}", f"{ratio / counted:.0%}"])
        figures |= {
            f"{per_window}_per_window.variants_per_s": 1 / seconds,
            f"{per_window}_per_window.ratio": ratio,
            f"{per_window}_per_window.flop_ratio": counted,
        }
    title = f"{case.name}: the engine against two full forwards per variant, {1 / full_s:.3g} variants/s"
    print_table(title, ["variants per window", "variants/s", "ratio", "flop ratio", "share"], rows)
    variants = 1 if case.is_slow else 16
    differences = largest_differences(case, engine, full, variants=variants)
    for name, share in differences.items():
        print(f"  {name}: at most {share:.1e} of the largest score, {variants} variants")
        figures[f"{name}.largest_relative_difference"] = share
    for name, floor in engine.noise_floor.items():
        figures[f"{name}.noise_floor"] = floor
    return {f"{case.name}.{key}": value for key, value in figures.items()}


def compare_saturation(case: Case, options: Options) -> dict[str, float]:
    """Time the saturation mutagenesis of the middle of a window."""
    engine, _, full_s = contest(case, options)
    (window,) = some_windows(case, per_window=1, count=1)
    middle = case.geometry.window_bp // 2
    masks = window.edits[0].masks
    saturated = saturate(window, first=middle, stop=middle + MUTATED_BP, masks_at=lambda _: masks)
    seconds = min(seconds_of(lambda: list(engine.score([saturated]))) for _ in range(options.repeats))
    ratio = full_s * len(saturated.edits) / seconds
    print(f"\n{case.name}: {len(saturated.edits)} alternates in {seconds:.2f} s, {ratio:.2f} times full forwards")
    return {"saturation.ratio": ratio, "saturation.alternates_per_s": len(saturated.edits) / seconds}


def main() -> None:
    """Run the benchmark."""
    parts = (*(case.name for case in CASES), "saturation", "flow")
    options = read_options(__doc__, repeats=3, parts=parts)
    figures: dict[str, float] = {}
    for case in CASES:
        if case.name in options.parts:
            figures |= compare_engine(case, options)
    if "saturation" in options.parts:
        figures |= compare_saturation(CASES[-1], options)
    if "flow" in options.parts:
        figures |= compare_flow(options)
    finish("score", {f"score.{key}": value for key, value in figures.items()})


def compare_flow(options: Options) -> dict[str, float]:
    """Time the flow against one variant at a time."""
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
    return figures | {"ray_start_s": start_s}


if __name__ == "__main__":
    main()
