"""The program: its verbs in the order of the road, and the one message that bad input ends with."""

import sys
from typing import Annotated

import typer

from cisray import __version__
from cisray.cli.dataset_verbs import build, export, mine, simulate
from cisray.cli.evaluate_verb import evaluate
from cisray.cli.model_verbs import import_weights, models, train
from cisray.cli.score_verbs import calibrate, report, score
from cisray.cli.sweep_verb import sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models that read DNA and predict what the cell does with it, and score what a variant changes.",
)

for _verb in (simulate, build, train, sweep, models, import_weights, evaluate, mine, calibrate, score, export, report):
    app.command()(_verb)


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
