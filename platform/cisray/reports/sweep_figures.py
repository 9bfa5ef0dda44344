"""The figures of a sweep's page: settings against what they came to, and how trials learned."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cisray.reports.figures import DARK_BLUE, DENSITY, GREY, LIGHT_BLUE, ORANGE, SETTINGS, WIDE_INCHES

MOST_LETTERS = 22
TICKS = 5
MOST_BESIDE = 5


class Axis(NamedTuple):
    """One setting of a plot of parallel coordinates."""

    name: str
    values: Sequence[float | None]
    """Of each trial; None where the setting does not count."""
    low: float
    high: float
    is_log: bool = False
    labels: Sequence[str] | None = None
    """Of a choice: what the values 0, 1 and so on stand for."""


@mpl.rc_context(SETTINGS)
def parallel_coordinates(
    axes: Sequence[Axis], *, values: Sequence[float], finished: Sequence[bool], winner: int | None = 0
) -> Figure:
    """Draw a line per trial, the best first, through its settings to its metric; the place of the winner, if any."""
    figure = Figure(figsize=(WIDE_INCHES, 3.9), layout="constrained")
    plot = figure.subplots()
    low, high = min(values), max(values)
    metric = Axis("validation Pearson", values, low=low, high=high if high > low else low + 1e-6)
    every = [*axes, metric]
    heights = np.array([_heights(axis) for axis in every])  # [A, M]
    shade = Normalize(low, max(high, low + 1e-6))
    for trial in reversed(range(len(values))):  # the best on top
        wins = trial == winner
        plot.plot(
            range(len(every)),
            heights[:, trial],
            color=ORANGE if wins else DENSITY(0.15 + 0.7 * shade(values[trial])),
            linewidth=2.4 if wins else 1.1,
            linestyle="-" if finished[trial] else (0, (4, 3)),
            marker="o",
            markersize=3.5 if wins else 2,
            zorder=3 if wins else 2,
        )
    for place, axis in enumerate(every):
        plot.axvline(place, color="#8a949d", linewidth=0.8, zorder=1)
        for height, label in _ticks(axis):
            plot.annotate(
                label,
                (place, height),
                xytext=(-5, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )
    plot.set_xticks(range(len(every)), [_wrapped(axis.name) for axis in every])
    plot.tick_params(axis="x", length=0, top=False)
    plot.set_yticks([])
    plot.set_xlim(-0.55, len(every) - 0.85)
    plot.set_ylim(-0.05, 1.05)
    plot.spines[:].set_visible(False)
    return figure


@mpl.rc_context(SETTINGS)
def trial_curves(
    curves: Mapping[int, Sequence[float | None]],
    *,
    winner: int,
    stopped: Collection[int],
    levels: Mapping[str, float],
) -> Figure:
    """Draw the best metric so far over epochs [E] by trial, and the levels that baselines came to."""
    figure = Figure(figsize=(WIDE_INCHES, 3.4), layout="constrained")
    plot = figure.subplots()
    plot.spines[["top", "right"]].set_visible(False)
    told: set[str] = set()
    for trial in sorted(curves, key=lambda trial: (trial == winner, trial)):
        label = "winner" if trial == winner else "given up" if trial in stopped else "other trials"
        values = _floats(curves[trial])
        colour = {"winner": ORANGE, "given up": LIGHT_BLUE, "other trials": DARK_BLUE}[label]
        plot.plot(
            range(1, len(values) + 1),
            values,
            color=colour,
            linewidth=2.0 if trial == winner else 1.0,
            marker="o",
            markersize=3.5 if trial == winner else 2,
            label=None if label in told else label,
        )
        told.add(label)
    for place, (name, level) in enumerate(sorted(levels.items(), key=lambda one: one[1])):
        plot.axhline(level, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        # side by side, because equal levels would hide each other's names
        at = (1 - 0.14 * (place % MOST_BESIDE), level)
        plot.annotate(_short(name), at, xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    plot.set_xlabel("epoch")
    plot.set_ylabel("best validation Pearson so far")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    plot.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
    return figure


def _heights(axis: Axis) -> NDArray[np.float64]:
    """Return where each trial crosses an axis, from 0 to 1 [M]; NaN where it does not."""
    values, low, high = _floats(axis.values), axis.low, axis.high
    if axis.is_log:
        values, low, high = np.log(values), np.log(low), np.log(high)
    return (values - low) / (high - low)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Return where an axis is labelled, from 0 to 1, and how."""
    if axis.labels is not None:
        places = np.arange(len(axis.labels))
        return [(place / axis.high, _short(label)) for place, label in zip(places, axis.labels, strict=True)]
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        marks = np.unique(np.linspace(axis.low, axis.high, TICKS).round())
        return [((mark - axis.low) / (axis.high - axis.low), f"{mark:.0f}") for mark in marks.tolist()]
    spaced = np.geomspace if axis.is_log else np.linspace
    marks = spaced(axis.low, axis.high, TICKS)
    return list(zip(np.linspace(0, 1, TICKS).tolist(), (f"{mark:.3g}" for mark in marks), strict=True))


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _wrapped(name: str) -> str:
    """Write a setting's section above its name."""
    section, dot, last = name.rpartition(".")
    return f"{_short(section)}{dot}\n{_short(last)}" if dot else _short(name)


def _short(name: str) -> str:
    """Cut a long name, and keep matplotlib from reading mathematics into it."""
    return (name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…").replace("$", r"\$")
