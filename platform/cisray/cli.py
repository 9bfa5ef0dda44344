"""The command line: the only place where job files, flows and tracking meet.

Every verb imports what it runs, so that --help and --version answer at once.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cisray import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from cisray.flows.build import BuildJob
    from cisray.progress import Progress

LOG_WIDTH = 140
CATALOG_WIDTH = 170
METRICS = {"auroc": "AUROC", "average_precision": "AP", "pearson": "r", "pearson_log1p": "r log1p", "r2": "R2"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models that read DNA and predict what the cell does with it, and score what a variant changes.",
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file; examples stand in jobs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the job file: --set training.epochs=3. May be given often.",
    ),
]


def main() -> None:
    """Run the command line; bad input ends with one clear message and exit code 2."""
    from cisray.errors import InputError

    try:
        app()
    except InputError as error:
        print(f"cisray: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cisray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Show nothing by itself; each verb has its own --help."""


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    seed: Annotated[int, typer.Option(help="Another seed, another genome.")] = 0,
) -> None:
    """Make a small genome, tracks and variants whose true effects are known."""
    from cisray.genome.simulate import SimulationSpec
    from cisray.genome.simulate import simulate as run

    run(out, spec=SimulationSpec(seed=seed))
    print(f"genome, tracks, variants and truth: {out}")


@app.command()
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
    from cisray.flows.build_genomes import AnyBuildJob, GenomesJob, build_genomes, member_jobs
    from cisray.reports.console import progress_bars
    from cisray.reports.dataset_text import print_dataset

    job = load_job(job_path, AnyBuildJob, overrides or ())
    members = member_jobs(job) if isinstance(job, GenomesJob) else {"": job}
    if dry_run:
        for name, member in members.items():
            _print_forecast(member, name)
        return
    # where all are there they are of this very job, or refused
    is_done = all((Path(member.out) / CARD_NAME).exists() for member in members.values())
    console = _console()
    with progress_bars(console) as report:
        out = build_genomes(job, report=report) if isinstance(job, GenomesJob) else run(job, report=report)
    for member in members.values():
        print_dataset(console, Path(member.out))
    print(f"{'already built' if is_done else 'dataset'}: {out}")


def _print_forecast(job: "BuildJob", genome: str) -> None:
    """Print what a build would do."""
    from cisray.flows.build import forecast
    from cisray.reports.console import print_table

    found = forecast(job)
    rows = [[split, count, f"{count * found.row_bytes / 1e9:.3g}"] for split, count in found.rows.items()]
    console = _console()
    print_table(
        console, f"{genome or job.name}: rows at most, and GB of arrays before packing", ["split", "rows", "GB"], rows
    )
    for reason, count in found.dropped.items():
        if count:
            console.print(f"left out: {count:,} {reason}", highlight=False)
    print(f"shards: {found.num_shards:,}, in {found.workers} processes")
    print(f"memory: {found.process_bytes / 1e6:,.0f} MB per process, by one shard that was timed")
    seconds = found.fixed_s + found.core_s / found.workers
    print(f"time: {seconds:,.2g} s, of which {found.fixed_s:,.2g} s to open and lay out; Ray's start is not in it")


@app.command()
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
        progress_bars(_console()) as show,
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


@app.command()
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


@app.command()
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
    console = _console()
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


@app.command()
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
    console = _console()
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


@app.command()
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

    if extent not in ("target", "input"):
        raise InputError(f"--extent {extent!r}: wanted target or input")
    export_calico(dataset, out, extent="input" if extent == "input" else "target", labels="fold" if folds else "split")
    print(f"targets.txt, sequences.bed, statistics.json: {out}")


@app.command()
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


def _console() -> "Console":
    from rich.console import Console

    console = Console(stderr=True)
    # a log is as wide as its reader's window, not 80 letters
    return console if console.is_terminal else Console(stderr=True, width=LOG_WIDTH)
