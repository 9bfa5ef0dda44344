"""The leaderboard: what every trial came to, in order, as rows and as a CSV file."""

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cisray.files import written_whole
from cisray.sweeps.schedule import Schedule, Status

LEADERBOARD_NAME = "leaderboard.csv"
SWEEP_NAME = "sweep.json"
METRIC = "valid.pearson"


class Row(NamedTuple):
    """What one trial came to."""

    rank: int
    """From 1: finished trials by their metric, then those given up by how far they came and their metric, then those
    that failed."""
    number: int
    status: Status
    value: float | None
    """Best validation metric, mean over the trial's runs."""
    spread: float | None
    """Standard deviation over runs; None for a single one."""
    values: list[float | None]
    """Of each run."""
    epochs: int
    """That every run was to reach; one may have ended before, for want of progress."""
    examples: int
    """That were read, by all runs."""
    seconds: float
    settings: dict[str, Any]
    """At the end; in a population they change on the way."""
    curve: list[float | None]
    """Best validation metric after each epoch, mean over runs [E]."""
    failure: str
    """Why it failed; empty where it did not."""


def rank(schedule: Schedule) -> list[Row]:
    """Return a row per trial, the best first; equal trials stand in the order of their numbers."""
    rows = [row_of(schedule, number) for number in schedule.settings]
    rows.sort(key=_order)
    return [row._replace(rank=place) for place, row in enumerate(rows, start=1)]


def _order(row: Row) -> tuple[int, int, float, int]:
    worth = -math.inf if row.value is None else row.value
    place = ("finished", "stopped", "open", "failed").index(row.status)
    return place, -row.epochs if row.status == "stopped" else 0, -worth, row.number


def row_of(schedule: Schedule, number: int) -> Row:
    """Return what a trial came to so far, without a rank."""
    results = schedule.results[number]
    sound = [result for result in results if not result.failure]
    last = sound[-1] if sound else None
    values = last.values if last else []
    return Row(
        rank=0,
        number=number,
        status=schedule.status[number],
        value=defined(last.curve[-1]) if last and last.curve else None,
        spread=defined(statistics.stdev(values)) if len(values) > 1 else None,
        values=[defined(value) for value in values],
        epochs=last.epoch if last else 0,
        examples=results[-1].examples if results else 0,
        seconds=round(sum(result.seconds for result in results), 3),
        settings=dict(results[-1].settings if results else schedule.settings[number]),
        curve=[defined(value) for value in last.curve] if last else [],
        failure=results[-1].failure if results else "",
    )


def write_leaderboard(path: Path, rows: Sequence[Row]) -> None:
    """Write a row per trial as CSV: what it came to, then a column per setting, empty where it has none."""
    names = list(dict.fromkeys(name for row in rows for name in row.settings))
    columns = ["rank", "trial", "status", METRIC, "spread", "runs", "epochs", "examples", "seconds"]
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow([*columns, *names, "failure"])
        for row in rows:
            facts = [row.rank, row.number, row.status, row.value, row.spread, len(row.values), row.epochs]
            table.writerow(
                [
                    *facts,
                    row.examples,
                    row.seconds,
                    *(row.settings.get(name) for name in names),
                    " ".join(row.failure.split()),
                ]
            )


def defined(value: float) -> float | None:
    """Return a figure, or None where it is no number: JSON has no word for that."""
    return value if math.isfinite(value) else None
