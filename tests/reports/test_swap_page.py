import pytest

from cisray.baselines.swap_loci import SEEN, UNMEASURED
from cisray.baselines.swap_table import SWAP_NAME, Measured, make_cells
from cisray.files import write_json
from cisray.reports.swap_page import swap_rows, write_swap_page

EVIL = "<b onclick='x'>&$_{"
RUNS = ["fold-0", "fold-1"]
PEARSON = {("heat", "heat"): (0.8, 0.9), ("heat", "cold"): (0.4, 0.5), ("cold", "heat"): (0.3, None)}
PEARSON[("cold", "cold")] = (0.7, 0.7)


def results(runs=RUNS, tracks=("a",)):
    measured = [
        Measured(run, *pair, 1500, {track: {"pearson": values[number], "r2": 0.1} for track in tracks})
        for pair, values in PEARSON.items()
        for number, run in enumerate(runs)
    ]
    left_out = {SEEN: 12, UNMEASURED: 0}
    counts = {"train": 3000, "valid": 400, "test": 1500, "left_out": left_out}
    return {
        "name": EVIL,
        "conditions": {name: {"dataset": "study", "digest": f"{name}12", "tracks": ["a"]} for name in ("heat", "cold")},
        "metric": "pearson",
        "strands": "both",
        "architecture": "linear",
        "train": {"model": {"architecture": "linear"}},
        "cells": [cell._asdict() for cell in make_cells(measured, ["heat", "cold"], metric="pearson")],
        "definitions": {"pearson": "how well they agree", "lost": "what is lost"},
        "runs": list(runs),
        "loci": {
            "num_folds": 3,
            "compared_by": "sequence",
            "search": {"seed_bp": 9, "shifted_seed_bp": 12, "found_in_place": 0.998, "found_shifted": 0.96},
            "runs": {run: {"heat": counts, "cold": counts} for run in runs},
        },
        "cisray_version": "0.1.0",
    }


@pytest.fixture
def make_page(tmp_path, read_page):
    def make(**settings):
        write_json(tmp_path / SWAP_NAME, results(**settings))
        return read_page(write_swap_page(tmp_path))

    return make


def test_the_table_and_what_is_lost_stand_side_by_side(make_page):
    page = make_page()
    header, rows = swap_rows(results())
    assert header == ["trained on", "heat (3,000 loci)", "cold (3,000 loci)"]
    assert rows == [["heat", "0.850 ± 0.0707", "0.450 ± 0.0707"], ["cold", "0.300", "0.700 ± 0"]]
    _, lost = swap_rows(results(), lost=True)
    assert lost == [["heat", "0 ± 0", "0.250 ± 0.0707"], ["cold", "0.500", "0 ± 0"]]
    for cells in (*rows, *lost):
        assert cells in [row for table in page.tables for row in table]
    assert "± is the standard deviation over runs" in page.text
    assert "their sequences, on both strands" in page.text
    assert ["cold", "fold-1", "3,000", "400", "1,500", "12", "0"] in [row for table in page.tables for row in table]
    assert "what is lost" in page.text
    assert "heat12" in page.text
    assert EVIL in page.text


def test_one_run_has_no_spread(make_page):
    page = make_page(runs=["splits"])
    assert "One run: no spread is known" in page.text
    assert ["heat", "0.800", "0.400"] in [row for table in page.tables for row in table]


def test_of_many_tracks_the_first_are_shown(make_page):
    page = make_page(tracks=tuple(f"t{number}" for number in range(30)))
    assert "5 more tracks of each stand in swap.json" in page.text
    assert len(page.table("trained on, tested on", "track", "pearson")) == 4 * 25
