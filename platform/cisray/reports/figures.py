"""The figures of a page: functions from arrays to matplotlib figures, and from a figure to an image inside the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from cisray.reports.page import Markup

# Blue against orange, light against dark: told apart by every kind of colour vision, and in grey.
LIGHT_BLUE, MIDDLE_BLUE, DARK_BLUE = "#a9bfd6", "#7b9fc9", "#00487c"
YELLOW, ORANGE, GREY, PALE = "#e69f00", "#c05200", "#5d6873", "#edf0f2"
SPLIT_COLOURS = {"train": LIGHT_BLUE, "valid": YELLOW, "test": DARK_BLUE}
DENSITY = LinearSegmentedColormap.from_list("density", ["#d5e0ec", "#6f93b8", DARK_BLUE, "#001c33"])

WIDE_INCHES = 10.9
SMALL_INCHES = 3.5
MOST_CONTIGS = 40
# Natural values that get a tick on an axis of log(1 + x).
LOG1P_TICKS = (0, 1, 3, 10, 30, 100, 300, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
SETTINGS = {
    "svg.hashsalt": "cisray",  # equal figures give equal bytes
    "svg.fonttype": "path",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.edgecolor": "#8a949d",
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.labelcolor": "#22292f",
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


class Stretch(NamedTuple):
    """A part of a contig, in one split."""

    contig: str
    start: int
    end: int
    split: str


class Panel(NamedTuple):
    """One track along a region."""

    name: str
    measured: NDArray[np.floating]
    """[M]; NaN where there is no data."""
    predicted: NDArray[np.floating]
    """[M]; NaN where nothing was predicted."""
    pair: str | None = None
    """The track of the other strand, drawn next to this one."""


def embed(figure: Figure, *, alt: str, caption: str = "", wide: bool = False) -> Markup:
    """Turn a figure into an image that is part of the page."""
    stream = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(stream, format="svg", dpi=180, metadata={"Date": None, "Creator": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    width_px = round(figure.get_figwidth() * 96)
    return Markup(
        f'<figure><div class="{"wide" if wide else "small"}"><img width="{width_px}" alt="{escape(alt)}" '
        f'src="data:image/svg+xml;base64,{data}"></div>{below}</figure>'
    )


@mpl.rc_context(SETTINGS)
def contig_map(lengths: Mapping[str, int], stretches: Sequence[Stretch]) -> Figure:
    """Draw the longest contigs as bars, coloured by split; what belongs to no split stays pale."""
    longest = sorted(lengths, key=lambda contig: -lengths[contig])[:MOST_CONTIGS]
    shown = [contig for contig in lengths if contig in longest]  # in the genome's order
    rows = {contig: row for row, contig in enumerate(shown)}
    figure = _figure(WIDE_INCHES, 0.95 + 0.2 * len(shown))
    axes = _plain_axes(figure.subplots())
    axes.barh(list(rows.values()), [lengths[contig] for contig in shown], height=0.72, color=PALE)
    for split, colour in SPLIT_COLOURS.items():
        parts = [one for one in stretches if one.split == split and one.contig in rows]
        axes.barh(
            [rows[one.contig] for one in parts],
            [one.end - one.start for one in parts],
            left=[one.start for one in parts],
            height=0.72,
            color=colour,
        )
    axes.set_yticks(list(rows.values()), [_short(contig, 24) for contig in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(lengths[contig] for contig in shown))
    axes.set_xlabel("position (bp)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _count_in_thousands(axes)
    used = {one.split for one in stretches}
    handles = [Patch(color=colour, label=split) for split, colour in SPLIT_COLOURS.items() if split in used]
    _legend_above(figure, [*handles, Patch(color=PALE, label="in no split")])
    return figure


@mpl.rc_context(SETTINGS)
def learning_curves(
    epochs: Sequence[int],
    *,
    losses: Mapping[str, NDArray[np.floating]],
    metric: NDArray[np.floating],
    per_track: NDArray[np.floating],
    best_epoch: int | None,
) -> Figure:
    """Draw losses [E] by name and the validation metric, its mean [E] and per track [E, T], over E epochs.

    What was never measured gets no axes of its own.
    """
    has_metric = not np.isnan(metric).all()
    figure = _figure(WIDE_INCHES * max(1, bool(losses) + has_metric) / 2, 3.2)
    every = figure.subplots(1, max(1, bool(losses) + has_metric), squeeze=False)[0]
    if losses:
        _draw_losses(every[0], epochs, losses)
    if has_metric:
        _draw_metric(every[-1], epochs, metric=metric, per_track=per_track, best_epoch=best_epoch)
    for axes in every:
        _legend_on_top(_plain_axes(axes))
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs) - 0.4, max(epochs) + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        if best_epoch in epochs:
            axes.axvline(best_epoch, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    return figure


@mpl.rc_context(SETTINGS)
def penalty_curve(penalties: Sequence[float], metric: NDArray[np.floating]) -> Figure:
    """Draw the validation metric [P], which has a value somewhere, over the penalties that were tried."""
    figure = _figure(WIDE_INCHES / 2, 2.9)
    axes = _plain_axes(figure.subplots())
    axes.plot(penalties, metric, color=DARK_BLUE, marker="o", markersize=4)
    best = int(np.nanargmax(metric))
    axes.plot([penalties[best]], [metric[best]], "o", color=ORANGE, markersize=7, label="best on average")
    _legend_on_top(axes)
    axes.set_xscale("log")
    axes.set_xlabel("ridge penalty (share of the mean feature variance)")
    axes.set_ylabel("mean validation Pearson")
    return figure


@mpl.rc_context(SETTINGS)
def signal_view(contig: str, starts: NDArray[np.integer], panels: Sequence[Panel], *, bin_bp: int) -> Figure:
    """Draw tracks over the bins that begin at `starts` [M], one below the other: measured filled, predicted as a line.

    Of a strand pair the second hangs from its axis, on the scale of the first.
    """
    figure = _figure(WIDE_INCHES, 0.9 + 1.2 * len(panels))
    stack = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.append(starts, starts[-1] + bin_bp)
    tops = [_top(panel) for panel in panels]
    names = [panel.name for panel in panels]
    for index, (axes, panel) in enumerate(zip(stack, panels, strict=True)):
        _draw_signal(_plain_axes(axes), edges, panel)
        partner = names.index(panel.pair) if panel.pair in names else index
        low, high = _floor(panel), max(tops[index], tops[partner])
        hangs = partner < index and low == 0
        axes.set_ylim((high, 0) if hangs else (low, high))
        if not hangs:
            below = f" above, {panel.pair} below" if partner > index and _floor(panels[partner]) == 0 else ""
            axes.set_title(_short(f"{panel.name}{below}", 100), loc="left", pad=3)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        if index < len(panels) - 1:
            axes.tick_params(axis="x", length=0, labelbottom=False)
            axes.spines["bottom"].set_visible(not hangs)
    stack[-1].set_xlim(edges[0], edges[-1])
    stack[-1].set_xlabel(f"position on {_short(contig, 60)} (bp)")
    _count_in_thousands(stack[-1])
    handles = [
        Patch(color=MIDDLE_BLUE, label="measured"),
        mpl.lines.Line2D([], [], color=ORANGE, label="predicted"),
    ]
    if any(np.isnan(panel.measured).any() for panel in panels):
        handles.append(Patch(facecolor=PALE, edgecolor="#c3cbd2", hatch="////", label="no data"))
    _legend_above(figure, handles)
    return figure


@mpl.rc_context(SETTINGS)
def density(measured: NDArray[np.floating], predicted: NDArray[np.floating], *, title: str) -> Figure:
    """Count bins [M] over measured and predicted, both after log(1 + x); values below 0 count as 0."""
    x, y = (np.log1p(np.maximum(values.astype(np.float64), 0)) for values in (measured, predicted))
    highest = max(float(x.max(initial=0)), float(y.max(initial=0)), 1e-3) * 1.03
    counts, edges, _ = np.histogram2d(x, y, bins=64, range=[[0, highest]] * 2)
    figure = _figure(SMALL_INCHES, SMALL_INCHES)
    axes = _plain_axes(figure.subplots())
    shown = np.ma.masked_equal(counts.T, 0)
    axes.pcolormesh(edges, edges, shown, cmap=DENSITY, norm=LogNorm(1, max(counts.max(), 2)), rasterized=True)
    axes.axline((0, 0), slope=1, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 3)))
    ticks = [tick for tick in LOG1P_TICKS if np.log1p(tick) <= highest]
    ticks = ticks if len(ticks) > 2 else np.expm1(np.linspace(0, highest / 1.03, 4)).round(3).tolist()
    for axis, name in ((axes.xaxis, "measured"), (axes.yaxis, "predicted")):
        axis.set_ticks(np.log1p(ticks), [f"{tick:,g}" for tick in ticks])
        axis.set_label_text(f"{name} (log(1 + x) scale)")
    axes.set(xlim=(0, highest), ylim=(0, highest), aspect="equal")
    axes.set_title(_short(title, 44), loc="left")
    return figure


@mpl.rc_context(SETTINGS)
def agreement(true: NDArray[np.floating], predicted: NDArray[np.floating], *, title: str, what: str) -> Figure:
    """Set predicted against true effects of variants [V], a dot each."""
    figure = _figure(SMALL_INCHES, SMALL_INCHES)
    axes = _plain_axes(figure.subplots())
    axes.axhline(0, color="#c3cbd2", linewidth=0.8)
    axes.axvline(0, color="#c3cbd2", linewidth=0.8)
    axes.axline((0, 0), slope=1, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(true, predicted, ".", color=DARK_BLUE, markersize=3, alpha=0.35, mew=0, rasterized=True)
    for values, setter in ((true, axes.set_xlim), (predicted, axes.set_ylim)):
        low, high = (float(values.min(initial=0)), float(values.max(initial=0))) if len(values) else (-1.0, 1.0)
        pad = 0.05 * (high - low) or 1.0
        setter(low - pad, high + pad)
    axes.set_xlabel(f"true {what}")
    axes.set_ylabel(f"predicted {what}")
    axes.set_title(_short(title, 44), loc="left")
    return figure


@mpl.rc_context(SETTINGS)
def distributions(
    names: Sequence[str], counts: NDArray[np.integer], edges: NDArray[np.floating], *, what: str
) -> Figure:
    """Draw one histogram per name, counts [T, K] on a log scale over shared edges [K + 1]."""
    figure = _figure(WIDE_INCHES, 0.7 + 0.95 * len(names))
    stack = figure.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    highest = max(10, int(counts.max(initial=0)))
    powers = 10 ** np.arange(int(np.log10(highest)), 0, -2)
    for axes, name, row in zip(stack, names, counts, strict=True):
        _plain_axes(axes)
        axes.stairs(np.log10(1 + row), edges, fill=True, color=LIGHT_BLUE)
        axes.stairs(np.log10(1 + row), edges, color=DARK_BLUE, linewidth=0.8)
        axes.axvline(0, color=ORANGE, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_ylim(0, np.log10(1 + highest) * 1.08)
        axes.set_yticks(np.log10(1 + np.append(0, powers)), [f"{tick:,}" for tick in (0, *powers.tolist())])
        axes.set_title(_short(name, 100), loc="left", pad=2)
        axes.tick_params(axis="x", length=3 if axes is stack[-1] else 0)
    stack[-1].set_xlim(edges[0], edges[-1])
    stack[-1].set_xlabel(what)
    figure.supylabel("variants", fontsize=9.5)
    return figure


@mpl.rc_context(SETTINGS)
def manhattan(
    places: NDArray[np.floating],
    heights: NDArray[np.floating],
    *,
    spans: Mapping[str, tuple[float, float]],
    what: str,
) -> Figure:
    """Draw heights [V] at places [V] along contigs that lie end to end, each over its span, in turning shades."""
    figure = _figure(WIDE_INCHES, 3.1)
    axes = _plain_axes(figure.subplots())
    total = max(end for _, end in spans.values())
    starts = np.array([start for start, _ in spans.values()])
    of_contig = np.searchsorted(starts, places, side="right") - 1
    for turn, colour in enumerate((DARK_BLUE, "#6f93b8")):
        here = of_contig % 2 == turn
        axes.plot(places[here], heights[here], ".", color=colour, markersize=3.5, mew=0, rasterized=True)
    axes.vlines(starts[1:], 0, 1, transform=axes.get_xaxis_transform(), color="#dfe4e8", linewidth=0.7, zorder=0)
    labels = {
        (start + end) / 2: _short(contig, 16)
        for contig, (start, end) in spans.items()
        if (end - start) / total > 0.009 * min(len(contig), 16) + 0.005  # a name that would touch the next is left out
    }
    axes.set_xticks(list(labels), list(labels.values()))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(0, total)
    axes.set_ylim(0, float(heights.max(initial=0)) * 1.06 or 1.0)
    axes.set_xlabel("position along the contigs, end to end")
    axes.set_ylabel(what)
    return figure


def _figure(width_inches: float, height_inches: float) -> Figure:
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def _plain_axes(axes: Axes) -> Axes:
    """Leave an axes only the two spines that carry ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_losses(axes: Axes, epochs: Sequence[int], losses: Mapping[str, NDArray[np.floating]]) -> None:
    for (name, values), colour in zip(losses.items(), (GREY, DARK_BLUE), strict=False):
        axes.plot(epochs, values, color=colour, marker="o", markersize=3.5, label=name)
    axes.set_ylabel("loss")


def _draw_metric(
    axes: Axes,
    epochs: Sequence[int],
    *,
    metric: NDArray[np.floating],
    per_track: NDArray[np.floating],
    best_epoch: int | None,
) -> None:
    """Draw the mean [E] over the tracks' lines [E, T], and mark the best epoch."""
    for index in range(per_track.shape[1]):
        label = "one track" if index == 0 else None
        axes.plot(epochs, per_track[:, index], color=LIGHT_BLUE, linewidth=0.9, label=label)
    axes.plot(epochs, metric, color=DARK_BLUE, marker="o", markersize=3.5, label="mean over tracks")
    if best_epoch is not None and best_epoch in epochs:
        best = metric[list(epochs).index(best_epoch)]
        axes.plot([best_epoch], [best], "o", color=ORANGE, markersize=7, label=f"best epoch: {best_epoch}")
    axes.set_ylabel("validation Pearson")


def _draw_signal(axes: Axes, edges: NDArray[np.integer], panel: Panel) -> None:
    axes.stairs(np.nan_to_num(panel.measured, nan=0.0), edges, fill=True, color=MIDDLE_BLUE)
    for start, end in _runs(np.isnan(panel.measured)):
        axes.axvspan(edges[start], edges[end], facecolor=PALE, edgecolor="#c3cbd2", hatch="////", linewidth=0, zorder=0)
    middles = (edges[:-1] + edges[1:]) / 2
    axes.plot(middles, panel.predicted, color=ORANGE, linewidth=1.0)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open stretches of an array [M] in which it is true."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(start), int(end)) for start, end in zip(changes[::2], changes[1::2], strict=True)]


def _finite(panel: Panel) -> NDArray[np.floating]:
    values = np.concatenate([panel.measured, panel.predicted])
    return values[np.isfinite(values)]


def _top(panel: Panel) -> float:
    return float(_finite(panel).max(initial=0)) * 1.06 or 1.0


def _floor(panel: Panel) -> float:
    return float(_finite(panel).min(initial=0)) * 1.06


def _legend_above(figure: Figure, handles: Sequence[Any]) -> None:
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)


def _legend_on_top(axes: Axes) -> None:
    """Put an axes' legend above it, where no line runs."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.4)


def _count_in_thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _short(name: str, most: int) -> str:
    """Cut a long name, and keep matplotlib from reading mathematics into it."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")
