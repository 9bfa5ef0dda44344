"""Small histograms of what tracks hold, a panel each, over the sizes that datasets.statistics counts by."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from cisray.datasets.statistics import GREATEST_POWER, LEAST_POWER, histogram_edges
from cisray.reports.figures import DARK_BLUE, GREY, LIGHT_BLUE, SETTINGS, SPLIT_COLOURS, WIDE_INCHES

COLUMNS = 4
PANEL_INCHES = 1.55
LONGEST_NAME = 34
# Where a bar of the K sizes begins, and the last one ends [K + 1]: those below 0 and of 0 are wide enough for a label.
PLACES = np.r_[-2.0, 0.0, np.arange(2, GREATEST_POWER - LEAST_POWER + 4)]
MOST_LABELS = 4  # more would touch in a panel of this width
LEAST_SHARE = 1e-7  # so that a single bin of ten million is still drawn


@mpl.rc_context(
    SETTINGS | {"font.size": 8, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False}
)
def histogram_panels(names: Sequence[str], counts: Mapping[str, NDArray[np.integer]]) -> Figure:
    """Draw for each of T names the share of bins by size, one line per split; `counts` are [T, K] by split."""
    rows = -(-len(names) // COLUMNS)
    height = 0.75 + PANEL_INCHES * rows
    figure = Figure(figsize=(WIDE_INCHES, height))
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.055, right=0.995, top=1 - 0.55 / height, bottom=0.42 / height, wspace=0.08, hspace=0.34
    )
    used = np.flatnonzero(sum(of_split.sum(axis=0) for of_split in counts.values()))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (1, 2)
    for index, (axes, name) in enumerate(zip(grid, names, strict=False)):
        for split, of_split in counts.items():
            _draw(axes, of_split[index], split)
        if not any(of_split[index].any() for of_split in counts.values()):
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_title(_shortened(name), loc="left", pad=3, parse_math=False)
        axes.tick_params(axis="x", labelbottom=index + COLUMNS >= len(names))
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    grid[0].set_xlim(PLACES[first] - 0.2, PLACES[last] + 0.2)
    _label_sizes(grid[0], first, last)
    _label_shares(grid[0], counts)
    handles = [
        Patch(facecolor=LIGHT_BLUE if split == "train" else "none", edgecolor=SPLIT_COLOURS[split], label=split)
        for split in counts
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.04, 1.0), ncols=len(handles), frameon=False)
    return figure


def _draw(axes: Axes, counts: NDArray[np.integer], split: str) -> None:
    """Draw the shares of one split's bins [K]; training's are filled."""
    shares = counts / max(1, counts.sum())
    if split == "train":
        axes.stairs(shares, PLACES, baseline=LEAST_SHARE, fill=True, color=LIGHT_BLUE)
    else:
        drawn = np.where(shares > 0, shares, LEAST_SHARE / 10)
        axes.stairs(drawn, PLACES, baseline=None, color=SPLIT_COLOURS.get(split, DARK_BLUE), linewidth=1.1)


def _label_sizes(axes: Axes, first: int, last: int) -> None:
    """Label, of the sizes from `first` up to `last`, those below 0, of 0, and where some powers of two begin."""
    edges = histogram_edges()
    step = -(-(last - max(first, 2)) // MOST_LABELS) or 1
    powers = [place for place in range(2, len(edges)) if (place - 2 + LEAST_POWER) % step == 0]
    nearest = 5 if first < 2 else first  # a label nearer to that of 0 would touch it
    ticks = {-1.0: "<0"} if first == 0 else {}
    ticks |= {1.0: "0"} if first <= 1 < last else {}
    for place in powers:
        if nearest <= place < last - 1:
            ticks[PLACES[place]] = f"{edges[place]:.1g}" if edges[place] < 1 else f"{edges[place]:,.0f}"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())


def _label_shares(axes: Axes, counts: Mapping[str, NDArray[np.integer]]) -> None:
    """Let the axis begin below the least share that is drawn."""
    shares = np.concatenate([(of / np.maximum(1, of.sum(axis=1, keepdims=True))).ravel() for of in counts.values()])
    least = float(shares[shares > 0].min(initial=0.1))
    axes.set_yscale("log")
    axes.set_ylim(max(LEAST_SHARE, least / 2), 1.6)
    ticks = [10.0**power for power in range(0, -8, -2) if 10.0**power >= max(LEAST_SHARE, least / 2)]
    axes.set_yticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
