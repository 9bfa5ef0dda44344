import numpy as np
import pytest

from cisray.datasets.card import Track
from cisray.datasets.statistics import HISTOGRAM_BINS, Tally
from cisray.reports.histograms import PLACES, histogram_panels


def counts_of(values):
    return Tally.of(np.array(values, np.float32)[None, :, None], [Track(name="a", file="a.bw")]).histogram


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def steps(axes):
    return [patch for patch in axes.patches if hasattr(patch, "get_data")]


def test_what_is_drawn_are_the_shares_of_the_bins():
    values = {"train": [0, 0, 0, 5], "valid": [-1, 6], "test": [1000]}
    figure = histogram_panels(["a"], {split: counts_of(of_split) for split, of_split in values.items()})
    (axes,) = panels(figure)
    for steps_of, of_split in zip(steps(axes), values.values(), strict=True):
        drawn, edges, _ = steps_of.get_data()
        assert np.array_equal(edges, PLACES)
        of_size = {power: drawn[2 + power + 10] for power in range(-10, 18)}
        assert drawn[1] == pytest.approx(of_split.count(0) / len(of_split), abs=1e-6)
        assert drawn[0] == pytest.approx(of_split.count(-1) / len(of_split), abs=1e-6)
        for power, share in of_size.items():
            expected = sum(2**power <= value < 2 ** (power + 1) for value in of_split) / len(of_split)
            assert share == pytest.approx(expected, abs=1e-6)
    assert axes.get_yscale() == "log"


def test_sizes_are_labelled_where_they_begin():
    figure = histogram_panels(["a"], {"train": counts_of([-3, 0, 0.5, 9000])})
    (axes,) = panels(figure)
    labels = {label.get_text(): place for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    assert list(labels)[:2] == ["<0", "0"]
    assert PLACES[0] < labels["<0"] < PLACES[1] < labels["0"] < PLACES[2]
    powers = {label: place for label, place in labels.items() if label not in ("<0", "0")}
    assert powers
    for label, place in powers.items():
        assert 2.0 ** (place - 2 - 10) == pytest.approx(float(label.replace(",", "")), rel=0.3)
    low, high = axes.get_xlim()
    assert low < PLACES[0]
    assert PLACES[2 + 10 + 13] < high < PLACES[2 + 10 + 13 + 2]


def test_a_track_without_data_says_so_and_names_keep_their_signs():
    nothing = np.zeros((1, HISTOGRAM_BINS), np.int64)
    counts = np.concatenate([counts_of([1, 2]), nothing])
    figure = histogram_panels(["$x_1$ {", "y" * 50], {"train": counts, "test": counts})
    first, second = panels(figure)
    assert not first.texts
    assert [one.get_text() for one in second.texts] == ["no data"]
    assert first.get_title(loc="left") == "$x_1$ {"
    assert second.get_title(loc="left") == "y" * 33 + "…"
    figure.canvas.draw()
    alone = histogram_panels(["a"], {"train": nothing})
    assert len(panels(alone)) == 1


def test_panels_fill_rows_of_four():
    counts = np.repeat(counts_of([1, 2, 3]), 6, axis=0)
    figure = histogram_panels([f"t{index}" for index in range(6)], {"train": counts})
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [f"t{index}" for index in range(6)]
    labelled = [axes for axes in panels(figure) if axes.xaxis.get_tick_params()["labelbottom"]]
    assert [axes.get_title(loc="left") for axes in labelled] == ["t2", "t3", "t4", "t5"]
