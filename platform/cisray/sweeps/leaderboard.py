"""The leaderboard: what every trial and baseline came to, in order, as rows and as a CSV file."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cisray.files import written_whole
from cisray.sweeps.schedule import Schedule, Status, defined

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
    rows.sort(key=order_of)
    return [row._replace(rank=place) for place, row in enumerate(rows, start=1)]


def order_of(row: Row) -> tuple[int, int, float, int]:
    """Return what rows are ranked by, the best first."""
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
        spread=spread_of(values),
        values=[defined(value) for value in values],
        epochs=last.epoch if last else 0,
        examples=results[-1].examples if results else 0,
        seconds=round(sum(result.seconds for result in results), 3),
        settings=dict(results[-1].settings if results else schedule.settings[number]),
        curve=[defined(value) for value in last.curve] if last else [],
        failure=results[-1].failure if results else "",
    )


def spread_of(values: Sequence[float]) -> float | None:
    """Return the standard deviation over runs; None of a single one, or where one has no value."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values)


def standings(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Put the trials and baselines of a sweep's results in one order, the best on the validation split first.

    Trials that were given up or failed follow, then baselines that failed. Each has the fields of a row, the `name` of
    the trial or baseline, and under `test` the metrics of those that were read on the test split, by head.
    """
    winner = results["winner"]["trial"]
    trials = [
        dict(row)
        | {"name": str(row["number"]), "test": results["test"].get("winner", {}) if row["number"] == winner else {}}
        for row in results["trials"]
    ]
    beside = [
        dict.fromkeys(("number", "epochs", "examples", "seconds"))
        | dict(one)
        | {"name": name, "status": "baseline", "settings": {"model.architecture": one["architecture"]}}
        | {"test": results["test"].get(name, {})}
        for name, one in results["baselines"].items()
    ]
    told: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for one in [*trials, *beside]:
        ended = one["status"] in ("finished", "baseline") and one["value"] is not None
        (told if ended else rest).append(one)
    return sorted(told, key=lambda one: -one["value"]) + rest


def write_leaderboard(path: Path, results: Mapping[str, Any]) -> None:
    """Write a row per trial and baseline as CSV: what it came to, on the test split too, then a column per setting."""
    rows = standings(results)
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    tested = [
        {_test_column(head, name): value for head, one in row["test"].items() for name, value in one.items()}
        for row in rows
    ]
    metrics = list(dict.fromkeys(name for one in tested for name in one))
    facts = ["spread", "epochs", "examples", "seconds"]
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["rank", "model", "status", METRIC, "runs", *facts, *metrics, *names, "failure"])
        for place, (row, test) in enumerate(zip(rows, tested, strict=True), start=1):
            table.writerow(
                [
                    *(place, row["name"], row["status"], row["value"], len(row["values"])),
                    *(row[name] for name in facts),
                    *(test.get(name) for name in metrics),
                    *(row["settings"].get(name) for name in names),
                    " ".join(row["failure"].split()),
                ]
            )


def _test_column(head: str, metric: str) -> str:
    return ".".join(part for part in ("test", head, metric) if part)
