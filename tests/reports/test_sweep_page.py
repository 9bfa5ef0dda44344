import copy
import re

import numpy as np
import pytest

from cisray.errors import InputError
from cisray.files import write_json
from cisray.reports import sweep_page
from cisray.reports.sweep_figures import Axis, parallel_coordinates, trial_curves
from cisray.reports.sweep_page import leaderboard_rows, rows_of_test, write_sweep_page
from cisray.sweeps.leaderboard import SWEEP_NAME

pytestmark = pytest.mark.usefixtures("unrendered")
EVIL = "<b onclick='x'>&$_{"


def row(number, value, *, status="finished", rank=1, failure="", **settings):
    return {
        "rank": rank,
        "number": number,
        "status": status,
        "value": value,
        "spread": None if value is None else 0.01,
        "values": [] if value is None else [value - 0.01, value + 0.01],
        "epochs": 0 if value is None else 4,
        "examples": 1000,
        "seconds": 1800.0,
        "settings": {"training.learning_rate": 1e-3, "model.architecture": "basenji"} | settings,
        "curve": [] if value is None else [value / 2, None, value],
        "failure": failure,
    }


def baseline(value, failure=""):
    return {"architecture": "kmer_ridge", "value": value, "spread": None, "values": [value], "failure": failure}


RESULTS = {
    "name": "study",
    "datasets": {"": {"name": "simulated", "digest": "ab12"}},
    "seed": 3,
    "search": {"method": "tpe", "random_trials": 4},
    "stopping": {"method": "asha", "first_epochs": 1, "factor": 3},
    "space": {
        "model.architecture": {"kind": "choice", "values": ["basenji", "bpnet"], "when": {}},
        "training.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-2, "points": None, "when": {}},
        "model.channels": {
            "kind": "int",
            "low": 8,
            "high": 64,
            "step": 8,
            "when": {"model.architecture": ["basenji"]},
        },
    },
    "runs": ["seed-0", "seed-1"],
    "winner": {"trial": 2, "trained_anew": False, "digest": "cd34"},
    "trials": [
        row(2, 0.81, **{"model.channels": 32}),
        row(0, 0.75, rank=2, **{"model.architecture": "bpnet"}),
        row(1, 0.4, status="stopped", rank=3, **{"model.channels": 8}),
        row(3, None, status="failed", rank=4, failure="the loss is nan", **{"model.channels": 64}),
    ],
    "baselines": {"linear": baseline(0.6)},
    "test": {"winner": {"": {"pearson": 0.79, "r2": None}}, "linear": {"": {"pearson": 0.58, "r2": 0.3}}},
    "other_tests": [],
    "definitions": {"pearson": "how well they agree"},
    "cisray_version": "0.1.0",
}


@pytest.fixture
def make_sweep(tmp_path):
    def make(**changes):
        write_json(tmp_path / SWEEP_NAME, RESULTS | changes)
        return tmp_path

    return make


def test_the_leaderboard_stands_with_every_setting(make_sweep, read_page):
    page = read_page(write_sweep_page(make_sweep()))
    header, _ = leaderboard_rows(RESULTS)
    assert header[5:] == ["architecture", "learning_rate", "other settings"]
    shown = page.table(*header)
    assert [one[0] for one in shown] == ["2", "0", "linear", "1", "3"]
    assert shown[0] == ["2", "finished", "0.810", "0.0100", "4", "basenji", "0.00100", "channels 32"]
    assert shown[1][5:] == ["bpnet", "0.00100", "–"]
    assert shown[2] == ["linear", "baseline", "0.600", "–", "–", "kmer_ridge", "–", "–"]
    assert shown[4][2:4] == ["–", "–"]
    assert "trial 3: the loss is nan" in page.text


def test_settings_with_one_last_name_keep_their_sections_and_a_single_run_has_no_spread():
    alike = {"kind": "choice", "values": [1, 2], "when": {}}
    header, _ = leaderboard_rows(
        RESULTS | {"space": {"model.dropout": alike, "training.dropout": alike}, "runs": ["a"]}
    )
    assert header == ["model", "status", "valid r", "epochs", "model.dropout", "training.dropout"]


def test_winner_and_baselines_stand_side_by_side_on_the_test_split(make_sweep, read_page):
    page = read_page(write_sweep_page(make_sweep()))
    header, _ = rows_of_test(RESULTS)
    winner, linear = page.table(*header)
    assert winner == ["winner, trial 2", "0.810", "0.0100", "0.790", "–"]
    assert linear == ["linear (kmer_ridge)", "0.600", "–", "0.580", "0.300"]
    assert "how well they agree" in page.text
    assert "2 came to their end; 1 were given up; 1 failed" in page.text
    assert "tpe, random_trials 4" in page.text
    assert "± 0.0100 over 2 runs" in page.text
    assert "trained anew" not in page.text


def test_what_is_not_there_is_said(make_sweep, read_page):
    winner = RESULTS["winner"] | {"trained_anew": True}
    failed = {"linear": baseline(None, "fell over")}
    folder = make_sweep(test={}, baselines=failed, winner=winner, trials=RESULTS["trials"][:1])
    page = read_page(write_sweep_page(folder))
    assert "The dataset has no test split." in page.text
    assert "The winner was trained anew after the search" in page.text
    assert "linear: fell over" in page.text


def test_several_heads_have_a_row_each():
    test = {"winner": {"human": {"pearson": 0.5}, "mouse": {"pearson": 0.6}}}
    _, rows = rows_of_test(RESULTS | {"test": test})
    assert [one[0] for one in rows] == ["winner, trial 2, head human", "winner, trial 2, head mouse"]


def test_names_from_outside_stay_words(make_sweep, read_page, rendered):
    space = {EVIL: {"kind": "choice", "values": [EVIL, True], "when": {}}}
    trials = copy.deepcopy(RESULTS["trials"])
    for one in trials:
        one["settings"] = {EVIL: EVIL}
    trials[-1]["failure"] = EVIL
    named = {"name": EVIL, "space": space, "trials": trials, "baselines": {EVIL: baseline(0.5)}, "test": {}}
    page = read_page(write_sweep_page(make_sweep(**named)))
    assert EVIL in page.text


def test_equal_results_give_equal_bytes(make_sweep, rendered):
    first = write_sweep_page(make_sweep()).read_bytes()
    assert write_sweep_page(make_sweep()).read_bytes() == first


@pytest.mark.parametrize("changes", [{"trials": []}, {"space": None}])
def test_what_is_no_sweep_is_refused(tmp_path, changes):
    results = {name: value for name, value in (RESULTS | changes).items() if value is not None}
    write_json(tmp_path / SWEEP_NAME, results)
    with pytest.raises(InputError, match=r"sweep\.json: not the results of a sweep; run cisray sweep again"):
        write_sweep_page(tmp_path)


def test_lines_cross_the_axes_where_the_settings_say():
    axes = [
        Axis("training.rate", [1e-2, 1e-4, 1e-3], 1e-4, 1e-2, is_log=True),
        Axis("model.architecture", [0, 1, 1], 0, 1, labels=["basenji", "bpnet"]),
        Axis("model.channels", [16, None, 24], 16, 32),
    ]
    figure = parallel_coordinates(axes, values=[0.8, 0.6, 0.4], finished=[True, True, False])
    (plot,) = figure.axes
    lines = [line for line in plot.lines if len(line.get_ydata()) == 4][::-1]  # the winner is drawn last
    expected = [[1, 0, 0, 1], [0, 1, np.nan, 0.5], [0.5, 1, 0.5, 0]]
    np.testing.assert_allclose([line.get_ydata() for line in lines], expected, atol=1e-12)
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    labels = [text.get_text() for text in plot.texts]
    assert {"basenji", "bpnet", "0.0001", "0.01", "16", "32"} <= set(labels)
    assert [label.get_text() for label in plot.get_xticklabels()][:2] == ["training.\nrate", "model.\narchitecture"]


def test_settings_that_count_for_few_are_drawn_apart_where_there_are_many(make_sweep):
    few = {
        f"bpnet.{number}": {"kind": "choice", "values": [1, 2], "when": {"model.architecture": ["bpnet"]}}
        for number in range(7)
    }
    trials = copy.deepcopy(RESULTS["trials"])
    trials[1]["settings"] |= dict.fromkeys(few, 2)
    changes = {"space": RESULTS["space"] | few, "trials": trials}
    page = write_sweep_page(make_sweep(**changes)).read_text()
    for group in ("all trials", "model.architecture: basenji", "model.architecture: bpnet"):
        assert f"settings and validation metric, {group}" in page
    page = write_sweep_page(make_sweep()).read_text()
    assert "settings and validation metric, all trials" in page
    assert "validation metric, model" not in page


def test_one_trial_or_equal_trials_can_be_drawn():
    for number in (1, 2):
        axes = [Axis("a", [1.0] * number, 0.0, 2.0)]
        (plot,) = parallel_coordinates(axes, values=[0.5] * number, finished=[True] * number).axes
        assert all(np.isfinite(line.get_ydata()).all() for line in plot.lines)


def test_every_trial_has_a_curve_and_every_baseline_a_level():
    figure = trial_curves({0: [0.1, 0.2], 1: [0.3, None, 0.5]}, winner=1, stopped={0}, levels={"linear": 0.4})
    (plot,) = figure.axes
    curves = [line for line in plot.lines if len(line.get_ydata()) != 2 or line.get_linestyle() == "-"]
    np.testing.assert_array_equal(curves[-1].get_ydata(), [0.3, np.nan, 0.5])
    assert {text.get_text() for text in plot.get_legend().get_texts()} == {"winner", "given up"}
    assert [text.get_text() for text in plot.texts] == ["linear"]
    assert re.match("best validation", plot.get_ylabel())


def test_of_very_many_trials_a_page_shows_some_and_says_so(make_sweep, read_page, monkeypatch):
    drawn = {}

    def curves_of(curves, **kwargs):
        drawn.update(curves)
        return trial_curves(curves, **kwargs)

    monkeypatch.setattr(sweep_page, "MOST_ROWS", 30)
    monkeypatch.setattr(sweep_page, "MOST_LINES", 5)
    monkeypatch.setattr(sweep_page, "trial_curves", curves_of)
    failed = [row(100 + n, None, status="failed", rank=101 + n, failure="no memory") for n in range(40)]
    trials = [row(n, 0.9 - 0.001 * n, rank=n + 1) for n in range(100)] + failed
    folder = make_sweep(trials=trials, winner=RESULTS["winner"] | {"trial": 0}, baselines={}, test={})
    page = read_page(write_sweep_page(folder))
    header, _ = leaderboard_rows(RESULTS)
    assert [int(one[0]) for one in page.table(*header)] == list(range(30))
    assert "The first 30 of 140; all stand in leaderboard.csv." in page.text
    assert "Drawn are 5 of 100 trials, evenly from the best to the worst." in page.text
    assert list(drawn) == [0, 25, 50, 74, 99]
    assert page.text.count("no memory") == 30
    assert "and 10 more" in page.text
