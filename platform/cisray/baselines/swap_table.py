"""The table of a swap experiment: rows are what a model was trained on, columns what it was tested on.

swap.json    conditions, loci, what was left out, and every cell with all metrics, tracks and runs
swap.csv     the table: per cell the mean of the metric and its spread
cells.csv    a row per cell and run
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.files import read_json, written_whole

SWAP_NAME = "swap.json"
TABLE_NAME = "swap.csv"
CELLS_NAME = "cells.csv"
KEYS = {"name", "conditions", "runs", "metric", "cells", "definitions", "loci"}
METRICS: dict[Kind, tuple[str, ...]] = {
    "labels": ("auroc", "average_precision", "pearson", "r2"),
    "measurements": ("pearson", "r2"),
    "coverage": ("pearson", "pearson_log1p", "r2"),
}
"""What an evaluation measures of each kind of targets; the first is the table's unless another is named."""
LOST = "what a condition's own model reaches on its test loci, less what this one does, run by run"


class Measured(NamedTuple):
    """What a model came to on the test loci of one condition, in one run."""

    run: str
    trained_on: str
    tested_on: str
    num_loci: int
    tracks: dict[str, dict[str, float | None]]
    """Metrics by the names of the tested condition's tracks; None where one cannot be measured."""

    def value(self, metric: str) -> float | None:
        """Return a metric, mean over the tracks that have it; None where none has."""
        return mean_known([one[metric] for one in self.tracks.values()])


class Cell(NamedTuple):
    """A cell of the table."""

    trained_on: str
    tested_on: str
    mean: float | None
    """Over runs."""
    spread: float | None
    """Standard deviation over runs; None for a single one."""
    values: list[float | None]
    """Of each run."""
    num_loci: int
    """Different ones that were tested: over folds they add up, over seeds they are the same."""
    lost: float | None
    """What the tested condition's own model reaches beyond this one, mean over runs; 0 in its own cell."""
    lost_spread: float | None
    metrics: dict[str, float | None]
    """All metrics, means over tracks and runs."""
    tracks: dict[str, float | None]
    """The table's metric of each track, mean over runs."""


def make_cells(measured: Sequence[Measured], conditions: Sequence[str], *, metric: str) -> list[Cell]:
    """Return a cell for every pair of conditions, row by row.

    `measured` holds each pair once in every run; runs are named FOLD.SEED, and those of one fold test the same loci.
    """
    of_pair: dict[tuple[str, str], dict[str, Measured]] = {}
    for one in measured:
        of_pair.setdefault((one.trained_on, one.tested_on), {})[one.run] = one
    cells = []
    for trained_on in conditions:
        for tested_on in conditions:
            runs, own = of_pair[trained_on, tested_on], of_pair[tested_on, tested_on]
            values = [one.value(metric) for one in runs.values()]
            pairs = [(own[run].value(metric), one.value(metric)) for run, one in runs.items()]
            losses = [best - value for best, value in pairs if best is not None and value is not None]
            first = next(iter(runs.values()))
            names = {name for one in runs.values() for metrics in one.tracks.values() for name in metrics}
            cells.append(
                Cell(
                    trained_on=trained_on,
                    tested_on=tested_on,
                    mean=mean_known(values),
                    spread=_spread(values),
                    values=values,
                    num_loci=sum({run.partition(".")[0]: one.num_loci for run, one in runs.items()}.values()),
                    lost=mean_known(losses),
                    lost_spread=_spread(losses),
                    metrics={
                        name: mean_known([one.value(name) for one in runs.values()])
                        for name in sorted(names - {"num_bins"})
                    },
                    tracks={
                        track: mean_known([one.tracks[track][metric] for one in runs.values()])
                        for track in first.tracks
                    },
                )
            )
    return cells


def table_rows(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Lay out the means, a row per condition that was trained on and a column per one that was tested on."""
    conditions = list(dict.fromkeys(cell["tested_on"] for cell in cells))
    at = {(cell["trained_on"], cell["tested_on"]): cell for cell in cells}
    rows = [[trained, *(at[trained, tested]["mean"] for tested in conditions)] for trained in conditions]
    return ["trained on", *(f"tested on {name}" for name in conditions)], rows


def write_tables(folder: Path, cells: Sequence[Cell], runs: Sequence[str], *, metric: str) -> None:
    """Write the table and the cells of all runs as CSV; what could not be measured is left empty."""
    conditions = list(dict.fromkeys(cell.trained_on for cell in cells))
    header: list[object] = ["trained_on"]
    for name in conditions:
        header += [f"{name}.{metric}", f"{name}.spread", f"{name}.lost", f"{name}.loci"]
    lines: list[list[object]] = [header]
    for trained_on in conditions:
        row: list[object] = [trained_on]
        for cell in (cell for cell in cells if cell.trained_on == trained_on):
            row += [cell.mean, cell.spread, cell.lost, cell.num_loci]
        lines.append(row)
    _write_csv(folder / TABLE_NAME, lines)
    lines = [["trained_on", "tested_on", "run", metric]]
    for cell in cells:
        lines += [[cell.trained_on, cell.tested_on, *pair] for pair in zip(runs, cell.values, strict=True)]
    _write_csv(folder / CELLS_NAME, lines)


def read_swap(folder: Path) -> dict[str, Any]:
    """Read the results of a swap experiment; raise InputError where the folder holds none."""
    results = read_json(folder / SWAP_NAME, what="swap experiment")
    if not results.keys() >= KEYS or not results["cells"]:
        raise InputError(f"{folder / SWAP_NAME}: not the results of a swap experiment; run cisray swap again")
    return results


def mean_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; None where none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.stdev(known) if len(known) > 1 else None


def _write_csv(path: Path, lines: Sequence[Sequence[object]]) -> None:
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows(["" if value is None else value for value in line] for line in lines)
