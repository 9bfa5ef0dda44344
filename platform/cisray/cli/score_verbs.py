"""Verbs that score variants, and show what any verb made."""

from pathlib import Path
from typing import Annotated

import typer

from cisray.cli.options import JobFile, Overrides, open_console


def score(job_path: JobFile, overrides: Overrides = None) -> None:
    """Score what each variant of a file changes, as a model sees it."""
    import dataclasses

    from cisray.bundle import Predictor
    from cisray.config import load_job
    from cisray.flows.score import ScoreJob
    from cisray.flows.score import score as run
    from cisray.reports.console import print_table, progress_bars
    from cisray.scoring.schema import MANIFEST_NAME, ModelSource, read_manifest
    from cisray.tracking import fetch_model, tracked_run

    job = load_job(job_path, ScoreJob, overrides or ())
    fetched = fetch_model(job.model)
    predictor = Predictor(fetched.bundle_dir)
    source = ModelSource(
        uri=fetched.uri,
        digest=predictor.digest,
        version=fetched.version,
        held_out_contigs=tuple(
            contig
            for contig, length in predictor.card.genome_for("scoring").contig_lengths.items()
            if f"{contig}:0-{length}" in predictor.card.regions["test"]
        ),
    )
    out = Path(job.out).absolute()
    if (out / MANIFEST_NAME).exists():
        run(job, bundle_dir=fetched.bundle_dir, model=source)  # done by this very job, or refused
        print(f"already scored: {out}")
        return
    console = open_console()
    with (
        tracked_run("scoring", kind="score", out=out, settings=dataclasses.asdict(job), job_path=job_path) as tracked,
        progress_bars(console) as report,
    ):
        run(job, bundle_dir=fetched.bundle_dir, model=source, report=report)
        manifest = read_manifest(out)
        tracked.log_metrics({f"rows.{status}": count for status, count in manifest.counts.items()})
    rows = [[status.value, f"{count:,}"] for status, count in manifest.counts.items()]
    print_table(console, f"{manifest.rows:,} rows of {manifest.records:,} records", ["status", "rows"], rows)
    for name, floor in manifest.noise_floor.items():
        console.print(f"{name} = {manifest.scores[name]}; noise floor {floor:.2g}", highlight=False, markup=False)
    print(f"score table: {out}")


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset, an evaluation or a score table.")],
    truth: Annotated[
        Path | None,
        typer.Option(
            help="For a score table: the truth.tsv of cisray simulate, to measure how well |score| tells classes apart."
        ),
    ] = None,
) -> None:
    """Make one HTML page of a dataset, an evaluation or a score table."""
    from cisray.datasets.card import CARD_NAME
    from cisray.datasets.predictions import EVALUATION_NAME
    from cisray.errors import InputError
    from cisray.reports.dataset_page import write_dataset_page
    from cisray.reports.run_page import write_run_page
    from cisray.reports.score_page import write_score_page
    from cisray.scoring.schema import MANIFEST_NAME, read_manifest

    if (folder / MANIFEST_NAME).exists():
        held_out = read_manifest(folder).model.held_out_contigs
        page, lines = write_score_page(folder, truth_path=truth, held_out=held_out)
        for line in lines:
            print(line)
    elif (folder / EVALUATION_NAME).exists():
        page = write_run_page(folder)
    elif (folder / CARD_NAME).exists():
        page = write_dataset_page(folder)
    else:
        raise InputError(
            f"{folder}: neither a dataset ({CARD_NAME}), nor an evaluation ({EVALUATION_NAME}), nor a score table "
            f"({MANIFEST_NAME}); give a folder that build, evaluate or score made"
        )
    print(f"report: {page}")
