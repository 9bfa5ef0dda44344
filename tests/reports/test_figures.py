import base64
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from cisray.reports.figures import (
    MOST_CONTIGS,
    ORANGE,
    SPLIT_COLOURS,
    Panel,
    Stretch,
    agreement,
    contig_map,
    density,
    distributions,
    embed,
    learning_curves,
    manhattan,
    penalty_curve,
    signal_view,
)

STARTS = np.arange(10) * 64 + 128
RNG = np.random.default_rng(0)
HOSTILE = "$x_1$ </svg><script> 100% \\frac{"


def panel(name="a", *, pair=None, scale=1.0, gap=slice(0, 0)):
    measured = np.arange(10.0) * scale
    measured[gap] = np.nan
    return Panel(name, measured, np.arange(10) * scale / 2, pair)


def all_figures():
    rng = np.random.default_rng(1)
    yield contig_map({HOSTILE: 100, "b": 50}, [Stretch(HOSTILE, 0, 60, "train"), Stretch("b", 0, 50, "test")])
    yield learning_curves(
        [1, 2], losses={"train": np.ones(2)}, metric=np.ones(2), per_track=np.ones((2, 3)), best_epoch=2
    )
    yield penalty_curve([0.1, 1.0], np.array([0.2, np.nan]))
    yield signal_view(HOSTILE, STARTS, [panel(HOSTILE), panel("b", gap=slice(2, 5))], bin_bp=64)
    yield density(rng.gamma(2, 3, 100), rng.gamma(2, 3, 100), title=HOSTILE)
    yield agreement(rng.normal(size=50), rng.normal(size=50), title=HOSTILE, what="log2fc")
    yield agreement(np.empty(0), np.empty(0), title="nothing", what="log2fc")
    yield distributions([HOSTILE], rng.integers(0, 9, (1, 20)), np.linspace(-1, 1, 21), what="log2fc")
    yield manhattan(np.array([1.0, 60.0]), np.array([0.5, 1]), spans={HOSTILE: (0, 50), "b": (50, 70)}, what="x")


def test_every_figure_becomes_an_image_that_stands_alone():
    settings = dict(mpl.rcParams)
    for figure in all_figures():
        markup = embed(figure, alt='a "b" <c>', caption="<i>")
        data = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', markup)[1]
        root = ET.fromstring(base64.b64decode(data))
        links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert 'alt="a &quot;b&quot; &lt;c&gt;"' in markup
        assert "&lt;i&gt;" in markup
    assert dict(mpl.rcParams) == settings


def test_the_map_draws_each_stretch_where_it_lies_and_the_longest_contigs_only():
    lengths = {f"c{index:02d}": 1000 + index for index in range(MOST_CONTIGS + 5)}
    stretches = [Stretch("c00", 0, 10, "train"), Stretch("c20", 100, 400, "test"), Stretch("c30", 5, 9, "valid")]
    axes = contig_map(lengths, stretches).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == sorted(lengths)[5:]  # the five shortest are left out, the order is the genome's
    found = {
        (to_hex(bar.get_facecolor()), bar.get_x(), bar.get_width(), labels[round(bar.get_y() + 0.36)])
        for bar in axes.patches
        if bar.get_width() < 1000
    }
    assert found == {(SPLIT_COLOURS["test"], 100, 300, "c20"), (SPLIT_COLOURS["valid"], 5, 4, "c30")}


def test_the_best_epoch_is_marked_where_it_lies():
    metric = np.array([0.1, 0.4, 0.3])
    figure = learning_curves(
        [1, 2, 3], losses={"train": metric}, metric=metric, per_track=np.empty((3, 0)), best_epoch=2
    )
    marks = [line for line in figure.axes[1].lines if line.get_label() == "best epoch: 2"]
    assert [mark.get_xydata().tolist() for mark in marks] == [[[2, 0.4]]]


@pytest.mark.parametrize(("losses", "metric", "labels"), [(0, 1, ["validation Pearson"]), (1, 0, ["loss"])])
def test_what_was_never_measured_gets_no_empty_axes(losses, metric, labels):
    values = np.array([0.1, 0.4])
    figure = learning_curves(
        [1, 2],
        losses={"train": values} if losses else {},
        metric=values if metric else values * np.nan,
        per_track=np.empty((2, 0)),
        best_epoch=None,
    )
    assert [axes.get_ylabel() for axes in figure.axes] == labels


def test_a_strand_pair_shares_its_scale_and_the_second_hangs():
    panels = [panel("x", scale=9), panel("plus", pair="minus", scale=2), panel("minus", pair="plus", scale=3)]
    axes = signal_view("c", STARTS, panels, bin_bp=64).axes
    assert len(axes) == 3
    (low, high), hanging = axes[1].get_ylim(), axes[2].get_ylim()
    assert low == 0
    assert hanging == (high, 0)
    assert high > 27
    assert [one.get_title(loc="left") for one in axes] == ["x", "plus above, minus below", ""]


def test_negative_signals_do_not_hang():
    panels = [panel("plus", pair="minus"), panel("minus", pair="plus", scale=-1)]
    for axes in signal_view("c", STARTS, panels, bin_bp=64).axes:
        low, high = axes.get_ylim()
        assert low < high
        assert axes.get_title(loc="left")


def test_gaps_are_hatched_exactly_and_left_empty():
    axes = signal_view("c", STARTS, [panel(gap=slice(2, 5))], bin_bp=64).axes[0]
    (hatched,) = [patch for patch in axes.patches if patch.get_hatch()]
    assert hatched.get_x() == STARTS[2]
    assert hatched.get_width() == 3 * 64
    (line,) = [one for one in axes.lines if one.get_color() == ORANGE]
    assert np.array_equal(line.get_xdata(), STARTS + 32)
    assert np.array_equal(line.get_ydata(), np.arange(10) / 2)


def test_a_legend_names_no_data_only_where_data_lack():
    for gap, names in ((slice(0, 0), 2), (slice(0, 1), 3)):
        figure = signal_view("c", STARTS, [panel(gap=gap)], bin_bp=64)
        assert len(figure.legends[0].get_texts()) == names


def test_a_density_counts_every_bin_once_also_negative_ones():
    measured, predicted = RNG.gamma(1, 30, 1000), RNG.gamma(1, 30, 1000) - 5
    (mesh,) = density(measured, predicted, title="t").axes[0].collections
    assert mesh.get_array().sum() == 1000
    limits = density(measured, predicted, title="t").axes[0].get_xlim()
    assert limits[1] >= np.log1p(max(measured.max(), predicted.max()))


def test_a_density_of_zeros_is_a_picture_too():
    axes = density(np.zeros(5), np.zeros(5), title="t").axes[0]
    assert axes.collections[0].get_array().sum() == 5


def test_distributions_show_the_counts():
    counts, edges = np.array([[0, 9, 99], [1, 0, 0]]), np.array([-1.0, 0, 1, 2])
    figure = distributions(["a", "b"], counts, edges, what="score")
    assert len(figure.axes) == 2
    for axes, row in zip(figure.axes, counts, strict=True):
        heights, drawn, _ = axes.patches[0].get_data()
        assert np.allclose(10**heights - 1, row)
        assert np.array_equal(drawn, edges)


def test_every_variant_is_drawn_on_its_contig():
    places = RNG.uniform(0, 100, 200)
    axes = manhattan(places, places / 10, spans={"a": (0, 30), "b": (30, 100)}, what="x").axes[0]
    drawn = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 2]
    assert [len(one) for one in drawn] == [(places < 30).sum(), (places >= 30).sum()]
    assert axes.get_ylim()[1] > places.max() / 10
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_crowded_contig_names_are_left_out():
    spans = {f"scaffold_{index}": (index, index + 1) for index in range(500)} | {"big": (500, 5000)}
    axes = manhattan(np.array([1.0]), np.array([1.0]), spans=spans, what="x").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["big"]
