"""Verbs that train models and list them."""

from typing import TYPE_CHECKING

from cisray.cli.options import JobFile, Overrides, open_console
from cisray.cli.places import own_folder, shown_place

if TYPE_CHECKING:
    from cisray.progress import Progress

CATALOG_WIDTH = 170


def train(job_path: JobFile, overrides: Overrides = None) -> None:
    """Train a model on a dataset and register it; run again to go on after an interruption."""
    import dataclasses

    from cisray.bundle import bundle_digest
    from cisray.config import load_job
    from cisray.datasets.card import read_card
    from cisray.files import value_digest
    from cisray.flows.publishing import fetched_output
    from cisray.flows.train import train as run
    from cisray.flows.train_job import TrainJob
    from cisray.registry import fetch_model
    from cisray.remote import local_path
    from cisray.reports.console import progress_bars
    from cisray.tracking import is_registered, shown_store, tracked_run

    job = load_job(job_path, TrainJob, overrides or ())
    out = fetched_output(job.out)
    datasets = {head: local_path(path) for head, path in job.sources.items()}
    cards = {head: read_card(path) for head, path in datasets.items()}
    start_dir = fetch_model(job.start.model).bundle_dir if job.start.model else None
    trained = run(job, start_dir=start_dir) if (out / "model.json").exists() else None
    if trained is not None and is_registered(bundle_digest(out)):
        print(f"already trained and registered: {shown_place(job.out, out)}")
        return
    settings = dataclasses.asdict(job)
    with (
        tracked_run(job.name, kind="train", out=out, settings=settings, job_path=job_path) as tracked,
        progress_bars(open_console()) as show,
    ):
        for head, card in cards.items():
            tracked.log_dataset(datasets[head], name=card.name, digest=card.digest, context=head or "training")

        def report(progress: "Progress") -> None:
            show(progress)
            tracked.report(progress)

        trained = trained or run(job, start_dir=start_dir, report=report)
        value = trained.metrics["valid.pearson"]
        metric = float("nan") if value is None else float(value)
        tracked.log_metrics({"best.valid.pearson": metric})
        digests = {head: card.digest for head, card in cards.items()}
        dataset_digest = digests[None] if None in digests else value_digest(digests)
        registered = tracked.register(
            out, name=job.name, digest=bundle_digest(out), dataset_digest=dataset_digest, metric=metric
        )
    print(f"validation Pearson, mean over tracks{'' if None in cards else ' and heads'}: {metric:.4f}")
    print(f"bundle: {shown_place(job.out, out)}")
    print(f"model: models:/{registered.name}/{registered.version}, which {registered.verdict}")
    print(f"MLflow store: {shown_store()}")


def models() -> None:
    """List the architectures, at the sizes they were published with."""
    from rich.console import Console

    from cisray.models.catalog import ARCHITECTURES, describe, settings_in_toml
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
    for architecture in ARCHITECTURES:
        if architecture.name != architecture.config.architecture:
            print(f"{architecture.name}: {', '.join(settings_in_toml(architecture.config))}")


def import_weights(job_path: JobFile, overrides: Overrides = None) -> None:
    """Make a bundle of published weights: Enformer's or Borzoi's, as their PyTorch packages store them."""
    from cisray.config import load_job
    from cisray.pretrained import ImportSpec
    from cisray.pretrained import import_weights as run

    spec = load_job(job_path, ImportSpec, overrides or ())
    own_folder(spec.out)
    print(f"bundle: {run(spec)}")
