"""The verb that measures a model."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cisray.cli.option_groups import with_options
from cisray.cli.options import STRANDS, open_console
from cisray.cli.places import shown_place

if TYPE_CHECKING:
    from rich.console import Console

METRICS = {"auroc": "AUROC", "average_precision": "AP", "pearson": "r", "pearson_log1p": "r log1p", "r2": "R2"}
GENE_METRICS = {"gene_pearson": "r genes", "gene_spearman": "rho genes", "gene_specificity": "r specific"}
ACROSS_TRACKS = {"track_specificity": "r across tracks"}


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `cisray evaluate`."""

    split: Annotated[
        list[str],
        typer.Option(
            metavar="SPLIT",
            help="train, valid or test. May be given often: each split then has a folder of its own below --out.",
        ),
    ] = field(default_factory=lambda: ["test"])
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which head to measure, of a model that has several.")
    ] = None
    beside: Annotated[str | None, typer.Option(metavar="MODEL", help="Another bundle, measured on the same bins.")] = (
        None
    )
    rc: Annotated[
        bool | None,
        typer.Option(
            help="Average the readings of both strands, or read forward only. Left out, a model reads as it learned.",
            show_default=False,
        ),
    ] = None
    genes: Annotated[
        str | None,
        typer.Option(
            metavar="GTF|GFF3", help="Compare sums over the genes of an annotation too, across genes and across tracks."
        ),
    ] = None
    gene_part: Annotated[
        str, typer.Option(metavar="exons|span", help="Sum over the exons of a gene, or over its whole span.")
    ] = "exons"
    gene_covered: Annotated[
        float, typer.Option(metavar="SHARE", help="Leave out genes of which less lies under windows with data.")
    ] = 1.0
    biotype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only genes of this biotype, such as protein_coding. May be given often."),
    ] = None
    ceiling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACK=SECOND",
            help="A second measurement of a track, such as a replicate: another track's name or a bigWig file. "
            "How far both agree stands beside the model. May be given often.",
        ),
    ] = None
    bigwig: Annotated[bool, typer.Option("--bigwig", help="Write predictions and measurements as bigWig too.")] = False
    gpu: Annotated[bool, typer.Option("--gpu", help="Predict on GPUs, one per process.")] = False


@with_options
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle's folder or URI, or models:/NAME@champion.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's folder, or its URI.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder to make, or its URI.")],
    options: EvaluateOptions,
) -> None:
    """Measure a model on a held-out split, and keep its predictions."""
    from cisray.config import check_settings
    from cisray.datasets.predictions import EVALUATION_NAME
    from cisray.files import read_json
    from cisray.flows.evaluate import EvaluateJob
    from cisray.flows.evaluate import evaluate as run
    from cisray.registry import fetch_model
    from cisray.remote import join, local_path
    from cisray.reports.console import progress_bars
    from cisray.tracking import record_evaluation

    settings = {
        "model": str(fetch_model(model).bundle_dir),
        "dataset": str(local_path(dataset)),
        "head": options.head,
        "beside": str(fetch_model(options.beside).bundle_dir) if options.beside else None,
        "strands": STRANDS[options.rc],
        "genes": _gene_settings(options),
        "ceiling": _parse_ceiling(options.ceiling or []),
        "bigwig": options.bigwig,
        "use_gpu": options.gpu,
    }
    folders = {split: out if len(options.split) == 1 else join(out, split) for split in options.split}
    jobs = [
        check_settings(settings | {"split": split, "out": place}, EvaluateJob, source="cisray evaluate")
        for split, place in folders.items()
    ]
    console = open_console()
    for job in jobs:
        with progress_bars(console) as report:
            folder = run(job, report=report)
        results = read_json(folder / EVALUATION_NAME, what="evaluation")
        _show_evaluation(console, results)
        record_evaluation(results["models"]["model"]["digest"], _figures(results))
        print(f"evaluation: {shown_place(job.out, folder)}")


def _gene_settings(options: EvaluateOptions) -> dict[str, Any] | None:
    """Return what is asked for about genes; None where nothing is."""
    from cisray.errors import InputError

    if options.genes is None:
        if options.biotype or options.gene_part != "exons" or options.gene_covered != 1.0:
            raise InputError("--biotype, --gene-part and --gene-covered go with --genes; name an annotation with it")
        return None
    return {
        "file": options.genes,
        "part": options.gene_part,
        "biotypes": tuple(options.biotype or ()),
        "least_covered": options.gene_covered,
    }


def _parse_ceiling(texts: list[str]) -> dict[str, str]:
    """Read TRACK=SECOND, each track once."""
    from cisray.errors import InputError

    found: dict[str, str] = {}
    for text in texts:
        track, equals, second = text.partition("=")
        if not (track and equals and second) or track in found:
            raise InputError(f"--ceiling {text!r}: wanted TRACK=SECOND, each track once")
        found[track] = second
    return found


def _figures(results: dict[str, Any]) -> dict[str, float | None]:
    """Return an evaluation's figures by the names that the run which trained the model keeps them under."""
    begins = f"{results['split']}.{results['head']}" if "head" in results else results["split"]
    of_genes = results["genes"]["models"]["model"] if "genes" in results else {"tracks": {}}
    figures = {
        f"{begins}.{metric}.{track}": value
        for tracks in (results["models"]["model"]["tracks"], of_genes["tracks"])
        for track, metrics in tracks.items()
        for metric, value in metrics.items()
    }
    across = {f"{begins}.{metric}": of_genes[metric] for metric in ACROSS_TRACKS if metric in of_genes}
    return figures | across


def _describe_strands(results: dict[str, Any]) -> str:
    """Say which strands were read; of models that read differently, which model reads which."""
    words = {"both": "mean of both strands", "forward": "forward strand"}
    models = results["models"].values()
    if len({one["strands"] for one in models}) == 1:
        return words[results["strands"]]
    return ", ".join(f"{one['architecture']}: {words[one['strands']]}" for one in models)


def _show_evaluation(console: "Console", results: dict[str, Any]) -> None:
    """Print an evaluation's tables, with what their columns mean."""
    from cisray.reports.console import print_table

    strands = _describe_strands(results)
    where = f"{results['split']} split" + (f", head {results['head']}" if "head" in results else "")
    print_table(console, f"{where}, {strands}", *_metric_rows(results))
    meanings = results["definitions"]
    if "ceiling" in results:
        print_table(console, "Second measurements, and the models on the same bins", *_ceiling_rows(results))
        meanings = meanings | {"ceiling": results["ceiling"]["definition"]}
    if "genes" in results:
        genes = results["genes"]
        print_table(console, f"Genes of {genes['file']}, sums over their {genes['part']}", *_gene_rows(results))
        for role, one in results["models"].items():
            of_model = genes["models"][role]
            if of_model["track_specificity"] is not None:
                console.print(
                    f"{one['architecture']}: r across tracks {of_model['track_specificity']:.3f}, mean over "
                    f"{of_model['num_across']:,} genes",
                    highlight=False,
                )
        meanings = meanings | genes["definitions"]
    for name, short in (METRICS | GENE_METRICS | ACROSS_TRACKS | {"ceiling": "ceiling"}).items():
        if name in meanings:
            console.print(f"[bold]{short}[/bold]: {meanings[name]}", highlight=False)


def _metric_rows(results: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out metrics per track, with those of the model beside."""
    models = results["models"]
    shown = {name: short for name, short in METRICS.items() if name in results["definitions"]}
    header = ["track", "bins", *_headed(shown, [one["architecture"] for one in models.values()])]
    return header, _rows("num_bins", shown, {role: one["tracks"] for role, one in models.items()})


def _ceiling_rows(results: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out correlations with second measurements, and those of the models on the same bins."""
    shown = {name: METRICS[name] for name in ("pearson", "pearson_log1p") if name in results["definitions"]}
    names = ["ceiling", *(one["architecture"] for one in results["models"].values())]
    rows = _rows("num_bins", shown, results["ceiling"]["models"])
    seconds = results["ceiling"]["seconds"]
    return ["track", "second", "bins", *_headed(shown, names)], [[row[0], seconds[row[0]], *row[1:]] for row in rows]


def _gene_rows(results: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out metrics across genes per track."""
    names = [one["architecture"] for one in results["models"].values()]
    of_models = {role: one["tracks"] for role, one in results["genes"]["models"].items()}
    return ["track", "genes", *_headed(GENE_METRICS, names)], _rows("num_genes", GENE_METRICS, of_models)


def _headed(metrics: dict[str, str], models: list[str]) -> list[str]:
    return [f"{short}\n{model}" for short in metrics.values() for model in models]


def _rows(number: str, metrics: dict[str, str], models: dict[str, Any]) -> list[list[object]]:
    """Lay out a row per track: how many there are, and each metric of each model."""
    first = next(iter(models.values()))
    rows: list[list[object]] = []
    for track, of_track in first.items():
        values = [one[track][metric] for metric in metrics for one in models.values()]
        rows.append([track, f"{of_track[number]:,.0f}", *("-" if value is None else value for value in values)])
    return rows
