"""Verbs that make datasets, look for negatives, and hand datasets on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cisray.cli.options import JobFile, Overrides, open_console
from cisray.cli.places import own_folder, shown_place

if TYPE_CHECKING:
    from cisray.flows.build import Forecast


def simulate(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    seed: Annotated[int, typer.Option(help="Another seed, another genome.")] = 0,
) -> None:
    """Make a small genome, tracks and variants whose true effects are known."""
    from cisray.genome.simulate import SimulationSpec
    from cisray.genome.simulate import simulate as run

    run(own_folder(out), spec=SimulationSpec(seed=seed))
    print(f"genome, tracks, variants and truth: {out}")


def build(
    job_path: JobFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how much work it is, after timing one shard, and write nothing.")
    ] = False,
) -> None:
    """Build a dataset from a genome and its tracks or peaks, from a table, or from TFRecords."""
    from cisray.config import load_job
    from cisray.datasets.card import CARD_NAME
    from cisray.flows.build import build as run
    from cisray.flows.build import forecast
    from cisray.flows.build_genomes import AnyBuildJob, GenomesJob, build_genomes, divide, member_jobs
    from cisray.remote import place_of_out
    from cisray.reports.console import progress_bars
    from cisray.reports.dataset_text import print_dataset

    job = load_job(job_path, AnyBuildJob, overrides or ())
    if isinstance(job, GenomesJob):
        own_folder(job.out)
    members = member_jobs(job) if isinstance(job, GenomesJob) else {"": job}
    if dry_run:
        regions = divide(job)[0] if isinstance(job, GenomesJob) else {}
        for name, member in members.items():
            _print_forecast(forecast(member, regions.get(name)), name or job.name)
        return
    # where all are there they are of this very job, or refused
    is_done = all((place_of_out(member.out) / CARD_NAME).exists() for member in members.values())
    console = open_console()
    with progress_bars(console) as report:
        out = build_genomes(job, report=report) if isinstance(job, GenomesJob) else run(job, report=report)
    for member in members.values():
        print_dataset(console, place_of_out(member.out))
    print(f"{'already built' if is_done else 'dataset'}: {shown_place(job.out, out)}")


def _print_forecast(found: "Forecast", name: str) -> None:
    """Print what a build would do."""
    from cisray.reports.console import print_table

    rows = [[split, count, f"{count * found.row_bytes / 1e9:.3g}"] for split, count in found.rows.items()]
    console = open_console()
    print_table(console, f"{name}: rows at most, and GB of arrays before packing", ["split", "rows", "GB"], rows)
    for reason, count in found.dropped.items():
        if count:
            console.print(f"left out: {count:,} {reason}", highlight=False)
    print(f"shards: {found.num_shards:,}, in {found.workers} processes")
    print(f"memory: {found.process_bytes / 1e6:,.0f} MB per process, by one shard that was timed")
    seconds = found.fixed_s + found.core_s / found.workers
    print(f"time: {seconds:,.2g} s, of which {found.fixed_s:,.2g} s to open and lay out; Ray's start is not in it")


def mine(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle's folder, or models:/NAME@champion.")],
    job_path: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The build job of peaks that it learned from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The BED file to make.")],
    num_loci: Annotated[int, typer.Option("--top", help="The most loci that are taken.")] = 1000,
    min_score: Annotated[float, typer.Option(help="Probability above which a window is a false positive.")] = 0.5,
    earlier: Annotated[Path | None, typer.Option(help="The file of the round before; its loci are kept.")] = None,
    overrides: Overrides = None,
) -> None:
    """Find windows without a peak that a model takes for positives; negatives of kind "mined" read them."""
    from cisray.config import check_settings, load_job
    from cisray.datasets.peaks.mining import MiningSpec
    from cisray.flows.build import PeaksJob
    from cisray.flows.mine import mine_negatives
    from cisray.registry import fetch_model
    from cisray.reports.console import progress_bars

    own_folder(out)
    job = load_job(job_path, PeaksJob, overrides or ())
    spec = check_settings({"num_loci": num_loci, "min_score": min_score}, MiningSpec, source="cisray mine")
    bundle_dir = fetch_model(model).bundle_dir
    with progress_bars(open_console()) as report:
        mined = mine_negatives(job, bundle_dir, out, spec, earlier=earlier, report=report)
    print(f"windows scored: {mined.num_scored:,}, of which {mined.num_false:,} are false positives")
    print(f"loci: {len(mined.start):,} in {mined.round.max(initial=0)} rounds: {out}")


def export(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    extent: Annotated[
        str, typer.Option(help="What the intervals of sequences.bed are: target (the predicted part) or input.")
    ] = "target",
    folds: Annotated[
        bool, typer.Option("--folds", help="Label intervals foldN instead of train, valid, test.")
    ] = False,
) -> None:
    """Write a dataset's tracks, windows and sizes as Calico's targets.txt, sequences.bed and statistics.json."""
    from cisray.datasets.calico.export import export_calico
    from cisray.errors import InputError

    own_folder(out)
    if extent not in ("target", "input"):
        raise InputError(f"--extent {extent!r}: wanted target or input")
    export_calico(dataset, out, extent="input" if extent == "input" else "target", labels="fold" if folds else "split")
    print(f"targets.txt, sequences.bed, statistics.json: {out}")
