"""Verbs that score variants."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cisray.cli.options import JobFile, Overrides, open_console
from cisray.cli.places import own_folder, shown_place

if TYPE_CHECKING:
    from rich.console import Console


def score(job_path: JobFile, overrides: Overrides = None) -> None:
    """Score what each variant of a file changes, as a model sees it."""
    import dataclasses

    from cisray.config import load_job
    from cisray.flows.publishing import fetched_output
    from cisray.flows.score import score as run
    from cisray.flows.score_export import export
    from cisray.flows.score_job import ScoreJob
    from cisray.registry import fetch_models
    from cisray.reports.console import progress_bars
    from cisray.scoring.manifest import MANIFEST_NAME
    from cisray.tracking import is_left_open, send_kept, tracked_run

    job = load_job(job_path, ScoreJob, overrides or ())
    models = fetch_models([job.model, *job.ensemble], head=job.head)
    out = fetched_output(job.out)
    settings = dataclasses.asdict(job)
    if (out / MANIFEST_NAME).exists() and not is_left_open("scoring", out=out, settings=settings):
        run(job, models=models)  # done by this very job, or refused
        send_kept(out)
        print(f"already scored: {shown_place(job.out, out)}")
        return
    console = open_console()
    with (
        tracked_run("scoring", kind="score", out=out, settings=settings, job_path=job_path) as tracked,
        progress_bars(console) as report,
    ):
        run(job, models=models, report=report)
        tracked.log_metrics(_totals(out))
    _print_summary(out, console)
    for path in export(job, out):
        print(f"written: {path}")
    print(f"score table: {shown_place(job.out, out)}")


def calibrate(
    job_path: JobFile,
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="What scoring jobs call it.")] = "background",
) -> None:
    """Score a background set of variants once, and keep the quantiles of its scores with the model."""
    import dataclasses

    from cisray.config import load_job
    from cisray.errors import InputError
    from cisray.flows.calibrate import calibrate as run
    from cisray.flows.score_job import ScoreJob
    from cisray.registry import fetch_models, keep_calibration
    from cisray.reports.console import progress_bars
    from cisray.stores import is_uri
    from cisray.tracking import tracked_run

    job = load_job(job_path, ScoreJob, overrides or ())
    out = own_folder(job.out)
    if is_uri(job.model):
        raise InputError(f"model: {job.model}: a calibration is kept with its bundle; fetch that, and name its folder")
    models = fetch_models([job.model, *job.ensemble], head=job.head)
    console = open_console()
    with (
        tracked_run(
            "scoring", kind="calibrate", out=out, settings=dataclasses.asdict(job), job_path=job_path
        ) as tracked,
        progress_bars(console) as report,
    ):
        card_path = run(job, name, models=models, report=report)
        tracked.log_metrics(_totals(out))
    kept = keep_calibration(next(iter(models)), card_path)
    _print_summary(out, console)
    print(f"calibration {name}: {card_path}")
    for address in kept:
        print(f"kept with: {address}")


def _totals(scores_dir: Path) -> dict[str, float]:
    """Return what MLflow keeps of a score table: rows per status, the guard, and what the run took."""
    from cisray.scoring.manifest import read_manifest
    from cisray.scoring.run_record import read_run

    manifest, record = read_manifest(scores_dir), read_run(scores_dir)
    totals: dict[str, float] = {f"rows.{status}": count for status, count in manifest.counts.items()}
    if manifest.guard is not None:
        totals["guard.largest_difference"] = manifest.guard.largest_difference
    if record is not None:
        totals |= {"seconds": record.seconds, "rows_per_s": record.rows_per_s, "engine_share": record.engine_share}
    return totals


def _print_summary(scores_dir: Path, console: "Console") -> None:
    """Print a table's counts, formulas and noise floors, and what its guard found."""
    from cisray.reports.console import print_table
    from cisray.scoring.manifest import read_manifest
    from cisray.scoring.run_record import read_run

    manifest, record = read_manifest(scores_dir), read_run(scores_dir)
    rows = [[status.value, f"{count:,}"] for status, count in manifest.counts.items()]
    print_table(console, f"{manifest.rows:,} rows of {manifest.records:,} records", ["status", "rows"], rows)
    for name, formula in (manifest.scores | manifest.gene_scores).items():
        floor = manifest.noise_floor[name]
        told = "" if floor is None else f"; noise floor {floor:.2g}"
        console.print(f"{name} = {formula}{told}", highlight=False, markup=False)
    guard = manifest.guard
    if guard is not None and guard.recomputed:
        console.print(
            f"{guard.recomputed:,} rows computed again by two full forwards: at most {guard.largest_difference:.1g} of "
            f"the largest score apart (allowed {guard.tolerance:g})",
            highlight=False,
        )
    if record is not None:
        console.print(
            f"{record.rows_per_s:,.1f} rows/s; {record.engine_share:.0%} of the workers' time in the engine",
            highlight=False,
        )
