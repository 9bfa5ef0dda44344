"""The verb that tells which features and words matter to a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cisray.cli.option_groups import with_options
from cisray.cli.options import STRANDS, open_console
from cisray.cli.places import own_folder

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class ImportanceOptions:
    """The options of `cisray importance`."""

    split: Annotated[str, typer.Option(metavar="SPLIT", help="valid or test.")] = "test"
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEASURE",
            help="shuffled, removed, words, coefficients, change or stability. May be given often. "
            "Without it: what says most of this kind of model.",
        ),
    ] = None
    groups: Annotated[
        str,
        typer.Option(
            metavar="each|sets|FILE.toml",
            help='Shuffle or remove each feature by itself, whole sets, or groups of a file: cpg = ["kmers:*CG*"].',
        ),
    ] = "each"
    word: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="A word to mask, in letters of IUPAC. May be given often."),
    ] = None
    word_bp: Annotated[int, typer.Option(metavar="K", help="Without words: mask all of K bases, one by one.")] = 4
    repeats: Annotated[int, typer.Option(metavar="N", help="Shuffles of each feature.")] = 10
    resamples: Annotated[int, typer.Option(metavar="N", help="Fits to halves of the data, for stability.")] = 20
    seed: Annotated[int, typer.Option(help="Of shuffles and fits.")] = 0
    head: Annotated[str | None, typer.Option(metavar="NAME", help="Which head, of a model that has several.")] = None
    rc: Annotated[
        bool | None,
        typer.Option(
            help="Of words: average the readings of both strands, or read forward only. "
            "Left out, a model reads as it learned.",
            show_default=False,
        ),
    ] = None


@with_options
def importance(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle's folder or URI, or models:/NAME@champion.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's folder, or its URI.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    options: ImportanceOptions,
) -> None:
    """Tell which features and words matter to a model, and whether by measured accuracy or by its own output."""
    from cisray.baselines.importance_table import IMPORTANCE_NAME, TABLE_NAME
    from cisray.config import check_settings
    from cisray.flows.importance import importance as run
    from cisray.flows.importance_job import ImportanceJob
    from cisray.registry import fetch_model
    from cisray.remote import local_path
    from cisray.reports.console import progress_bars
    from cisray.reports.importance_page import write_importance_page

    own_folder(out)
    settings = {
        "model": str(fetch_model(model).bundle_dir),
        "dataset": str(local_path(dataset)),
        "out": str(out),
        "split": options.split,
        "head": options.head,
        "by": tuple(options.by or ()),
        "groups": _read_groups(options.groups),
        "words": tuple(options.word or ()),
        "word_bp": options.word_bp,
        "repeats": options.repeats,
        "resamples": options.resamples,
        "seed": options.seed,
        "strands": STRANDS[options.rc],
    }
    job = check_settings(settings, ImportanceJob, source="cisray importance")
    console = open_console()
    with progress_bars(console) as report:
        folder = run(job, report=report)
    page = write_importance_page(folder)
    _show(console, folder)
    for path in (folder / TABLE_NAME, folder / IMPORTANCE_NAME, page):
        print(f"written: {path}")


def _read_groups(text: str) -> str | dict[str, Any]:
    """Return `each` or `sets` as they are, or the groups that a file names."""
    import tomllib

    from cisray.errors import InputError

    if text in ("each", "sets"):
        return text
    path = Path(text)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--groups {text}: {error.strerror}; wanted each, sets, or a TOML file of groups and patterns of features"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--groups {text}: not valid TOML: {error}") from None


def _show(console: "Console", folder: Path) -> None:
    """Print what matters most by each measure, with what that is."""
    from cisray.baselines.importance_table import read_importance
    from cisray.reports.console import print_table
    from cisray.reports.importance_page import rows_of

    results, table = read_importance(folder)
    for by, taken in results["measures"].items():
        header, rows = rows_of(table, by, most=SHOWN_ROWS)
        print_table(console, f"{by}, {taken['sort']}: {taken['measure']}", header, rows)
