"""Time contenders in turn, and say what was found: tables of medians, then one line of JSON."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from cisray.progress import Progress


class Options(NamedTuple):
    """What the command line says."""

    repeats: int
    """Times that every contender runs."""
    scale: float
    """Factor on the amount of data; shapes stay as they are."""
    parts: tuple[str, ...] = ()
    """Which of the benchmark's parts run, where it has several."""

    def scaled(self, amount: int, *, at_least: int = 1) -> int:
        """Scale an amount of data."""
        return max(at_least, round(amount * self.scale))


def read_options(description: str | None, *, repeats: int, parts: Sequence[str] = ()) -> Options:
    """Read `--repeats` and `--scale`, and for a benchmark of several parts `--parts`, of which all run unless named."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats, help="times that every contender runs")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the amount of data")
    parser.set_defaults(parts=parts)
    if parts:
        parser.add_argument("--parts", nargs="+", choices=parts, help="what to run; all unless some are named")
    options = parser.parse_args()
    if options.repeats < 1 or options.scale <= 0:
        parser.error("wanted at least one repeat and a positive scale")
    return Options(options.repeats, options.scale, tuple(options.parts))


def seconds_of(run: Callable[[], object]) -> float:
    """Run something once and return its seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def interleave(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run all contenders in turn, `repeats` times, every second time in reverse, and return the seconds of each.

    With `warm_up` each runs once beforehand, untimed, so that none pays for cold caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    if warm_up:
        for run in contenders.values():
            run()
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            seconds[name].append(seconds_of(contenders[name]))
    return seconds


def print_rates(
    title: str, rates: Mapping[str, Sequence[float]], *, unit: str, against: str, megabytes: float | None = None
) -> dict[str, float]:
    """Print each contender's rates: median, range, and ratio to the median of `against`; return the medians.

    `megabytes` of one unit add a column of MB/s.
    """
    medians = {name: median(values) for name, values in rates.items()}
    rows = []
    for name, values in rates.items():
        cells = [name, significant(medians[name]), f"{significant(min(values))} - {significant(max(values))}"]
        if megabytes is not None:
            cells.append(significant(medians[name] * megabytes))
        rows.append([*cells, f"{medians[name] / medians[against]:.2f}"])
    header = ["", f"{unit}/s", "range", *([] if megabytes is None else ["MB/s"]), "ratio"]
    print_table(f"{title}; median of {max(map(len, rates.values()))}, ratio to: {against}", header, rows)
    return medians


def rates_of(seconds: Mapping[str, Sequence[float]], amounts: Mapping[str, float]) -> dict[str, list[float]]:
    """Turn seconds into rates, each contender having done its own amount."""
    return {name: [amounts[name] / one for one in values] for name, values in seconds.items()}


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, the first column to the left."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    print(f"\n{title}")
    for row in (header, *rows):
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([first, *others]).rstrip())


def significant(value: float) -> str:
    """Write a number with three significant digits, and all of its integer part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def finish(name: str, figures: Mapping[str, float]) -> None:
    """Print the last line: the benchmark's figures as JSON."""
    rounded = {key: float(f"{value:.4g}") for key, value in figures.items()}
    print()
    print(json.dumps({"benchmark": name, "machine": machine(), "figures": rounded}))


def machine() -> str:
    """Describe this machine: processor, cores, torch, GPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, {gpu}"


class Marks:
    """A `report` that notes what it was told, and when."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Progress]] = []

    def __call__(self, progress: Progress) -> None:
        """Note one step."""
        self.told.append((time.perf_counter(), progress))


def steady_rate(points: Sequence[tuple[float, float]], *, workers: int) -> float:
    """Return the amount per second of workers that finish pieces side by side, their start apart.

    `points` are the time and the whole amount done at each finished piece. Counting begins once every worker
    can have finished one.
    """
    (first_time, first_amount), (last_time, last_amount) = points[workers - 1], points[-1]
    return (last_amount - first_amount) / (last_time - first_time)
