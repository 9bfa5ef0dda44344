"""Let every verb run on a Ray cluster instead of here, and look at what runs there."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_OPTIONS = ("--on", "--in")
_OnOption = typer.Option(
    "--on",
    metavar="ADDRESS",
    help="Submit this to the Ray cluster whose dashboard is at ADDRESS, such as http://127.0.0.1:8265, and follow it; "
    "Ctrl-C stops it there.",
    rich_help_panel="On a cluster",
)
_InOption = typer.Option(
    "--in",
    metavar="FOLDER",
    help="Where relative paths begin on the cluster; by default the same folder as here.",
    rich_help_panel="On a cluster",
)
Address = Annotated[
    str,
    typer.Option(
        "--on", metavar="ADDRESS", envvar="RAY_API_SERVER_ADDRESS", help="The address of the cluster's dashboard."
    ),
]


def on_cluster(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb that takes `--on ADDRESS` too, and then runs there."""

    @functools.wraps(verb)
    def call(*, address: str | None, run_dir: str | None, **values: Any) -> None:
        if address is None:
            if run_dir is not None:
                raise typer.BadParameter("--in names a folder of a cluster; say which one with --on")
            verb(**values)
            return
        raise typer.Exit(_run_there(address, _without(sys.argv[1:], _OPTIONS), run_dir or str(Path.cwd())))

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(verb, eval_str=True).parameters.values()
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])
        for name, option in {"address": _OnOption, "run_dir": _InOption}.items()
    ]
    seen = inspect.Signature([*own, *added])
    call.__signature__ = seen  # type: ignore[attr-defined]  # what typer reads
    call.__annotations__ = {name: one.annotation for name, one in seen.parameters.items()}
    return call


def jobs(address: Address) -> None:
    """List the jobs that were submitted to a cluster, the newest last."""
    import datetime as dt

    from rich.console import Console

    from cisray.cli.options import LOG_WIDTH
    from cisray.flows.submission import connect, list_jobs
    from cisray.reports.console import print_table

    rows = []
    for job in list_jobs(connect(address)):
        started = "–" if job.started is None else f"{dt.datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M:%S}"
        lasted = "–" if job.seconds is None else str(dt.timedelta(seconds=round(job.seconds)))
        rows.append([job.job_id, job.status.lower(), started, lasted, job.command])
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    print_table(console, address, ["job", "status", "started", "ran for", "command"], rows)


def logs(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="As cisray jobs lists it.")], address: Address
) -> None:
    """Follow what a job on a cluster prints, and end as it ends; Ctrl-C leaves it running."""
    from cisray.flows.submission import connect, follow

    raise typer.Exit(follow(connect(address), job_id, _write))


def stop(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="As cisray jobs lists it.")], address: Address
) -> None:
    """Stop a job on a cluster; the same command submitted again goes on where it was."""
    from cisray.flows.submission import connect
    from cisray.flows.submission import stop as run

    print(f"stopped: {job_id}" if run(connect(address), job_id) else f"{job_id} had ended already")


def _run_there(address: str, arguments: Sequence[str], run_dir: str) -> int:
    """Submit a command line, follow it, and return its exit code; an interrupt stops the job."""
    from cisray.flows.submission import STOPPED, connect, follow, stop, submit, wait_until_begun

    client = connect(address)
    job_id = submit(client, arguments, folder=Path.cwd(), run_dir=run_dir)
    print(f"submitted as {job_id} to {address}", file=sys.stderr)
    try:
        wait_until_begun(client, job_id)
        code = follow(client, job_id, _write)
    except KeyboardInterrupt:
        print(f"stopping {job_id}", file=sys.stderr)
        stop(client, job_id)
        code = STOPPED
    if code:
        print(f"cisray: {job_id} ended with exit code {code}", file=sys.stderr)
    return code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in options:
            next(words, None)
        elif word.split("=", 1)[0] not in options:
            kept.append(word)
    return kept
