"""The verb that tries settings of a training and keeps the best."""

from typing import TYPE_CHECKING, Any, Self

from cisray.cli.options import JobFile, Overrides, open_console
from cisray.cli.places import own_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from cisray.progress import Progress, Report
    from cisray.sweeps.leaderboard import Row
    from cisray.tracking import TrackedRun

SHOWN = 12


class TrackedTrials:
    """Keeps a nested run per trial; on leaving, those of trials that are not at their end are closed as failed."""

    def __init__(self, tracked: "TrackedRun") -> None:
        self._tracked = tracked
        self._open: dict[int, TrackedRun] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for run in self._open.values():
            run.end(failure="the sweep was interrupted")

    def begin(self, number: int, settings: "Mapping[str, Any]") -> "Report":
        """Return the report of a trial's run."""
        self._open[number] = self._tracked.child(f"trial {number}", settings=settings)
        return self._open[number].report

    def end(self, row: "Row") -> None:
        """Close a trial's run with what it came to."""
        run = self._tracked.child(f"trial {row.number}", settings=row.settings)
        run.log_metrics({"best.valid.pearson": row.value, "spread": row.spread, "epochs": row.epochs})
        run.end(failure=row.failure)
        self._open.pop(row.number, None)


def sweep(job_path: JobFile, overrides: Overrides = None) -> None:
    """Try settings of a training, and register the best; run again to go on after an interruption."""
    import dataclasses

    from cisray.bundle import bundle_digest
    from cisray.config import load_job
    from cisray.datasets.card import read_card
    from cisray.files import read_json, value_digest
    from cisray.flows.sweep import sweep as run
    from cisray.flows.sweep_job import SweepJob
    from cisray.registry import fetch_model
    from cisray.remote import local_path
    from cisray.reports.console import progress_bars
    from cisray.reports.sweep_page import write_sweep_page
    from cisray.sweeps.leaderboard import LEADERBOARD_NAME, SWEEP_NAME
    from cisray.tracking import is_registered, shown_store, tracked_run

    job = load_job(job_path, SweepJob, overrides or ())
    out = own_folder(job.out)
    example = job.example
    cards = {head: read_card(local_path(path)) for head, path in example.sources.items()}
    start_dir = fetch_model(example.start.model).bundle_dir if example.start.model else None
    if (out / SWEEP_NAME).exists():
        run(job, start_dir=start_dir)  # done by this very job, or refused
        if is_registered(bundle_digest(out / "winner")):
            print(f"already swept and registered: {out}")
            return
    console = open_console()
    with (
        tracked_run(job.name, kind="sweep", out=out, settings=dataclasses.asdict(job), job_path=job_path) as tracked,
        TrackedTrials(tracked) as trials,
        progress_bars(console) as show,
    ):
        for head, dataset in example.sources.items():
            name, digest = cards[head].name, cards[head].digest
            tracked.log_dataset(local_path(dataset), name=name, digest=digest, context=head or "training")

        def report(progress: "Progress") -> None:
            show(progress)
            if progress.stage == "trials":
                tracked.report(progress)

        run(job, start_dir=start_dir, listener=trials, report=report)
        page = write_sweep_page(out)
        results = read_json(out / SWEEP_NAME, what="sweep")
        tracked.log_metrics(_figures(results))
        for path in (page, out / LEADERBOARD_NAME):
            tracked.log_file(path, under="sweep")
        digests = {head: card.digest for head, card in cards.items()}
        registered = tracked.register(
            out / "winner",
            name=job.name,
            digest=bundle_digest(out / "winner"),
            dataset_digest=digests[None] if None in digests else value_digest(digests),
            metric=results["trials"][0]["value"],
        )
    _show(console, results)
    print(f"written: {out / LEADERBOARD_NAME}\nwritten: {page}")
    print(f"bundle: {out / 'winner'}")
    print(f"model: models:/{registered.name}/{registered.version}, which {registered.verdict}")
    print(f"MLflow store: {shown_store()}")


def _figures(results: dict[str, Any]) -> dict[str, float | None]:
    """Return what MLflow keeps of a sweep: the best trial, the baselines, and the test split."""
    best = results["trials"][0]
    figures: dict[str, float | None] = {"best.valid.pearson": best["value"], "best.spread": best["spread"]}
    figures |= {f"{name}.valid.pearson": one["value"] for name, one in results["baselines"].items()}
    for status in ("finished", "stopped", "failed"):
        figures[f"trials.{status}"] = sum(row["status"] == status for row in results["trials"])
    for name, heads in results["test"].items():
        for head, metrics in heads.items():
            begins = ".".join(part for part in ("test", name, head) if part)
            figures |= {f"{begins}.{metric}": value for metric, value in metrics.items()}
    return figures


def _show(console: "Console", results: dict[str, Any]) -> None:
    """Print the first trials, those that failed, and what the test split says."""
    from cisray.reports.console import print_table
    from cisray.reports.sweep_page import leaderboard_rows, rows_of_test

    header, rows = leaderboard_rows(results)
    title = f"{len(results['trials'])} trials and {len(results['baselines'])} baselines, by validation Pearson"
    if len(rows) > SHOWN:
        title += f"; the first {SHOWN}"
    print_table(console, title, header, list(map(_shown, rows))[:SHOWN])
    for row in results["trials"]:
        if row["failure"]:
            console.print(f"trial {row['number']} failed: {row['failure']}", highlight=False, markup=False)
    header, rows = rows_of_test(results)
    if rows:
        print_table(console, "Test split, read once, means over tracks", header, list(map(_shown, rows)))


def _shown(row: list[object]) -> list[object]:
    """Write a row's figures as a page does: a rate of 0.00001 is not 0.000."""
    from cisray.reports.page import number

    return [number(value) for value in row]
