"""What a terminal shows while a flow runs, and the tables it prints at the end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table

from cisray.progress import Progress, Report

# What is worth a place beside a bar, and how it is written.
SHOWN_FIGURES = {
    "rows": "{:,.0f} rows",
    "rows_per_s": "{:,.0f} rows/s",
    "engine_share": "{:.0%} in the engine",
    "train.loss": "loss {:.4f}",
    "valid.pearson": "valid r {:.4f}",
    "examples_per_s": "{:,.0f} examples/s",
    "already_done": "{:,.0f} done before",
}
# Where there is no terminal, such as in a job's log, a line is written this often.
LINE_S = 20.0


@contextmanager
def progress_bars(console: Console) -> Iterator[Report]:
    """Give a report that shows each stage, its rate and time left: as bars, or as lines where there is no terminal."""
    with _bars(console) if console.is_terminal else nullcontext(_lines(console)) as show:

        def report(progress: Progress) -> None:
            if progress.note:
                console.print(progress.note, highlight=False, markup=False)
            show(progress)

        yield report


def _lines(console: Console) -> Report:
    """Return a report that writes a line when a stage begins, every so often, and when it ends."""
    begun: dict[str, tuple[float, int]] = {}
    written: dict[str, float] = {}

    def report(progress: Progress) -> None:
        now = time.monotonic()
        started, first = begun.setdefault(progress.stage, (now, progress.done))
        ended = 0 < progress.total <= progress.done
        if not ended and now - written.get(progress.stage, -LINE_S) < LINE_S:
            return
        written[progress.stage] = now
        rate = (progress.done - first) / max(now - started, 1e-9)
        minutes = (progress.total - progress.done) / rate / 60 if rate > 0 else 0.0
        left = f", {minutes:.1f} min left" if minutes > 0 else ""
        note = describe(progress.figures)
        total = f" of {progress.total:,}" if progress.total else ""
        text = f"{progress.stage}: {progress.done:,}{total} {progress.unit}"
        console.print(
            text + (f", {rate:,.1f}/s" if rate > 0 else "") + left + (f", {note}" if note else ""), highlight=False
        )

    return report


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    """Give a report that draws one bar per stage."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        stages: dict[str, TaskID] = {}

        def report(progress: Progress) -> None:
            if progress.stage not in stages:
                stages[progress.stage] = bars.add_task(
                    progress.stage,
                    total=progress.total,
                    completed=progress.done,
                    unit=progress.unit,
                    rate="",
                    note="",
                )
            task = stages[progress.stage]
            speed = bars.tasks[task].speed
            bars.update(
                task,
                completed=progress.done,
                total=progress.total or None,
                rate=f"{speed:,.1f}/s" if speed else "",
                note=describe(progress.figures),
            )

        yield report


def describe(figures: Mapping[str, float]) -> str:
    """Write the figures that are worth showing in one line."""
    return ", ".join(text.format(figures[name]) for name, text in SHOWN_FIGURES.items() if figures.get(name))


def print_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table; numbers stand on the right."""
    console.print(title, style="bold", highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
