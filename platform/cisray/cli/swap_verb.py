"""The verb that swaps conditions: models of each, tested on all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cisray.cli.options import JobFile, Overrides, open_console
from cisray.cli.places import own_folder

if TYPE_CHECKING:
    from cisray.progress import Progress


def swap(job_path: JobFile, overrides: Overrides = None) -> None:
    """Train a model on each condition and test it on all, on loci unseen by any; run again to go on."""
    import dataclasses

    from cisray.baselines.swap_table import CELLS_NAME, SWAP_NAME, TABLE_NAME, read_swap
    from cisray.config import load_job
    from cisray.datasets.card import read_card
    from cisray.flows.swap import swap as run
    from cisray.flows.swap_job import SwapJob
    from cisray.registry import fetch_model
    from cisray.reports.console import print_table, progress_bars
    from cisray.reports.swap_page import swap_rows, write_swap_page
    from cisray.tracking import is_left_open, send_kept, shown_store, tracked_run

    job = load_job(job_path, SwapJob, overrides or ())
    out = own_folder(job.out)
    start = job.example.start.model
    start_dir = fetch_model(start).bundle_dir if start else None
    settings = dataclasses.asdict(job)
    if (out / SWAP_NAME).exists() and not is_left_open(job.name, out=out, settings=settings):
        run(job, start_dir=start_dir)  # done by this very job, or refused
        send_kept(out)
        print(f"already swapped: {out}")
        return
    cards = {name: read_card(Path(one.dataset)) for name, one in job.conditions.items()}
    console = open_console()
    with (
        tracked_run(job.name, kind="swap", out=out, settings=settings, job_path=job_path) as tracked,
        progress_bars(console) as show,
    ):
        for name, card in cards.items():
            dataset_dir = Path(job.conditions[name].dataset).absolute()
            tracked.log_dataset(dataset_dir, name=card.name, digest=card.digest, context=name)

        def report(progress: "Progress") -> None:
            show(progress)
            if progress.stage == "models":
                tracked.report(progress)

        run(job, start_dir=start_dir, report=report)
        page = write_swap_page(out)
        results = read_swap(out)
        tracked.log_metrics(_figures(results))
        for path in (page, out / TABLE_NAME, out / CELLS_NAME):
            tracked.log_file(path, under="swap")
    header, rows = swap_rows(results)
    print_table(console, f"{results['metric']}: rows trained on, columns tested on", header, rows)
    console.print(f"{results['metric']}: {results['definitions'][results['metric']]}", highlight=False, markup=False)
    for path in (out / TABLE_NAME, out / CELLS_NAME, out / SWAP_NAME, page):
        print(f"written: {path}")
    print(f"MLflow store: {shown_store()}")


def _figures(results: dict[str, Any]) -> dict[str, float | None]:
    """Return what MLflow keeps of a swap: every cell's mean and spread."""
    figures: dict[str, float | None] = {}
    for cell in results["cells"]:
        name = f"test.{results['metric']}.{cell['trained_on']}.on.{cell['tested_on']}"
        figures |= {name: cell["mean"], f"{name}.spread": cell["spread"]}
    return figures
