"""Verbs that train models, list them and measure them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cisray.cli.options import JobFile, Overrides, open_console

if TYPE_CHECKING:
    from cisray.progress import Progress

CATALOG_WIDTH = 170
METRICS = {"auroc": "AUROC", "average_precision": "AP", "pearson": "r", "pearson_log1p": "r log1p", "r2": "R2"}


def train(job_path: JobFile, overrides: Overrides = None) -> None:
    """Train a model on a dataset and register it; run again to go on after an interruption."""
    import dataclasses

    from cisray.bundle import Predictor
    from cisray.config import load_job
    from cisray.datasets.card import read_card
    from cisray.flows.train import TrainJob
    from cisray.flows.train import train as run
    from cisray.reports.console import progress_bars
    from cisray.tracking import is_registered, shown_store, tracked_run

    job = load_job(job_path, TrainJob, overrides or ())
    out, dataset_dir = Path(job.out).absolute(), Path(job.dataset).absolute()
    card = read_card(dataset_dir)
    trained = run(job) if (out / "model.json").exists() else None
    if trained is not None and is_registered(Predictor(out).digest):
        print(f"already trained and registered: {out}")
        return
    settings = dataclasses.asdict(job)
    with (
        tracked_run(job.name, kind="train", out=out, settings=settings, job_path=job_path) as tracked,
        progress_bars(open_console()) as show,
    ):
        tracked.log_dataset(dataset_dir, name=card.name, digest=card.digest, context="training")

        def report(progress: "Progress") -> None:
            show(progress)
            tracked.report(progress)

        trained = trained or run(job, report=report)
        value = trained.metrics["valid.pearson"]
        metric = float("nan") if value is None else float(value)
        tracked.log_metrics({"best.valid.pearson": metric})
        registered = tracked.register(
            out, name=job.name, digest=Predictor(out).digest, dataset_digest=card.digest, metric=metric
        )
    print(f"validation Pearson, mean over tracks: {metric:.4f}")
    print(f"bundle: {out}")
    print(f"model: models:/{registered.name}/{registered.version}, which {registered.verdict}")
    print(f"MLflow store: {shown_store()}")


def models() -> None:
    """List the architectures, at the sizes they were published with."""
    from rich.console import Console

    from cisray.models.catalog import ARCHITECTURES, describe
    from cisray.reports.console import print_table

    rows = []
    for one in map(describe, ARCHITECTURES):
        tracks = ", ".join(
            f"{count:,}" if len(one.tracks) == 1 else f"{n} {count:,}" for n, count in one.tracks.items()
        )
        cost = f"{one.gflop:,.0f}" if one.gflop >= 100 else f"{one.gflop:.2g}"
        sizes = [f"{one.window_bp:,}", f"{one.bins:,} x {one.bin_bp:,} bp", tracks, f"{one.parameters:,}", cost]
        rows.append([one.name, *sizes, f"{one.local_share:.0%}", one.paper])
    header = ["architecture", "window", "bins", "tracks", "parameters", "GFLOP", "in local", "paper"]
    console = Console()
    if not console.is_terminal:
        console = Console(width=CATALOG_WIDTH)
    print_table(console, "A multiplication and an addition are two operations", header, rows)


def import_weights(job_path: JobFile, overrides: Overrides = None) -> None:
    """Make a bundle of published weights: Enformer's or Borzoi's, as their PyTorch packages store them."""
    from cisray.config import load_job
    from cisray.pretrained import ImportSpec
    from cisray.pretrained import import_weights as run

    print(f"bundle: {run(load_job(job_path, ImportSpec, overrides or ()))}")


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle's folder, or models:/NAME@champion.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    beside: Annotated[str | None, typer.Option(help="Another bundle, measured on the same bins.")] = None,
    rc: Annotated[bool, typer.Option(help="Average the readings of both strands.")] = True,
    bigwig: Annotated[bool, typer.Option("--bigwig", help="Write predictions and measurements as bigWig too.")] = False,
) -> None:
    """Measure a model on a held-out split, and keep its predictions."""
    from cisray.config import check_settings
    from cisray.datasets.predictions import EVALUATION_NAME
    from cisray.files import read_json
    from cisray.flows.evaluate import EvaluateJob
    from cisray.flows.evaluate import evaluate as run
    from cisray.reports.console import print_table, progress_bars
    from cisray.tracking import fetch_model, record_evaluation

    bundle_dir = fetch_model(model).bundle_dir
    settings = {
        "model": str(bundle_dir),
        "dataset": str(dataset.absolute()),
        "out": str(out),
        "split": split,
        "beside": str(fetch_model(beside).bundle_dir) if beside else None,
        "strands": "both" if rc else "forward",
        "bigwig": bigwig,
    }
    job = check_settings(settings, EvaluateJob, source="cisray evaluate")
    console = open_console()
    with progress_bars(console) as report:
        folder = run(job, report=report)
    results = read_json(folder / EVALUATION_NAME, what="evaluation")
    header, rows = _metric_rows(results)
    print_table(console, f"{split} split, {'mean of both strands' if rc else 'forward strand'}", header, rows)
    for name, short in METRICS.items():
        if name in results["definitions"]:
            console.print(f"[bold]{short}[/bold]: {results['definitions'][name]}", highlight=False)
    figures = {
        f"{split}.{metric}.{track}": value
        for track, metrics in results["models"]["model"]["tracks"].items()
        for metric, value in metrics.items()
    }
    record_evaluation(results["models"]["model"]["digest"], figures)
    print(f"evaluation: {folder}")


def _metric_rows(results: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out metrics per track, with those of the model beside."""
    models = results["models"]
    shown = {name: short for name, short in METRICS.items() if name in results["definitions"]}
    header = [
        "track",
        "bins",
        *(f"{short}\n{one['architecture']}" for short in shown.values() for one in models.values()),
    ]
    rows: list[list[object]] = []
    for track, of_model in models["model"]["tracks"].items():
        values = [one["tracks"][track][metric] for metric in shown for one in models.values()]
        rows.append([track, f"{of_model['num_bins']:,.0f}", *("-" if value is None else value for value in values)])
    return header, rows
