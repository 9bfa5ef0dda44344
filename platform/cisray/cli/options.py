"""What several verbs take, and the terminal that they write to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 140
STRANDS = {None: "learned", True: "both", False: "forward"}
"""What --rc, --no-rc and neither mean for a job's `strands`."""

JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file; examples stand in jobs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the job file: --set training.epochs=3. May be given often.",
    ),
]


def open_console() -> "Console":
    """Return the terminal, or where there is none a log's lines, on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    # a log is as wide as its reader's window, not 80 letters
    return console if console.is_terminal else Console(stderr=True, width=LOG_WIDTH)
