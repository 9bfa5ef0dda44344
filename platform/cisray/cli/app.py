"""The program: its verbs in the order of the road, and the one message that bad input ends with."""

import sys
from typing import Annotated

import typer

from cisray import __version__
from cisray.cli.dataset_verbs import build, export, mine, simulate
from cisray.cli.evaluate_verb import evaluate
from cisray.cli.importance_verb import importance
from cisray.cli.model_verbs import import_weights, models, train
from cisray.cli.on_cluster import jobs, logs, on_cluster, stop
from cisray.cli.plan_verb import plan
from cisray.cli.report_verb import report
from cisray.cli.score_verbs import calibrate, score
from cisray.cli.swap_verb import swap
from cisray.cli.sweep_verb import sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models that read DNA and predict what the cell does with it, and score what a variant changes.",
)

_ROAD = (
    simulate,
    plan,
    build,
    train,
    sweep,
    swap,
    models,
    import_weights,
    evaluate,
    importance,
    mine,
    calibrate,
    score,
)
for _verb in (*_ROAD, export, report):
    app.command()(on_cluster(_verb))
for _look in (jobs, logs, stop):
    app.command()(_look)


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
