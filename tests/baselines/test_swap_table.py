import csv

import pytest

from cisray.baselines.swap_table import (
    CELLS_NAME,
    KEYS,
    SWAP_NAME,
    TABLE_NAME,
    Measured,
    make_cells,
    mean_known,
    read_swap,
    table_rows,
    write_tables,
)
from cisray.errors import InputError
from cisray.files import write_json

RUNS = ["fold-0.seed-1", "fold-0.seed-2", "fold-1.seed-1", "fold-1.seed-2"]
AUROC = {  # by cell, a value per run
    ("heat", "heat"): [0.9, 0.92, 0.88, 0.9],
    ("heat", "cold"): [0.6, 0.7, None, 0.65],
    ("cold", "heat"): [0.5, 0.6, 0.5, 0.6],
    ("cold", "cold"): [0.8, 0.8, 0.8, 0.8],
}


def measured():
    found = []
    for (trained_on, tested_on), values in AUROC.items():
        for run, value in zip(RUNS, values, strict=True):
            loci = (100 if run.startswith("fold-0") else 110) + (5 if tested_on == "cold" else 0)
            tracks = {
                "a": {"auroc": value, "pearson": 0.1, "num_bins": 100.0},
                "b": {"auroc": None, "pearson": 0.3, "num_bins": 0.0},
            }
            found.append(Measured(run, trained_on, tested_on, loci, tracks))
    return found


def test_a_cell_is_the_mean_over_runs_with_what_is_lost_run_by_run():
    cells = {(one.trained_on, one.tested_on): one for one in make_cells(measured(), ["heat", "cold"], metric="auroc")}
    assert list(cells) == [("heat", "heat"), ("heat", "cold"), ("cold", "heat"), ("cold", "cold")]
    swapped = cells["heat", "cold"]
    assert swapped.mean == pytest.approx(0.65)
    assert swapped.spread == pytest.approx(0.05)
    assert swapped.values == [0.6, 0.7, None, 0.65]
    assert swapped.lost == pytest.approx(0.15)  # of the runs that have both
    assert swapped.lost_spread == pytest.approx(0.05)
    assert swapped.num_loci == 105 + 115  # folds add up, seeds do not
    assert swapped.metrics == {"auroc": pytest.approx(0.65), "pearson": pytest.approx(0.2)}
    assert swapped.tracks == {"a": pytest.approx(0.65), "b": None}
    own = cells["heat", "heat"]
    assert (own.lost, own.lost_spread, own.num_loci) == (0.0, 0.0, 210)


def test_a_single_run_has_no_spread():
    one_run = [one for one in measured() if one.run == RUNS[0]]
    cell = make_cells(one_run, ["heat", "cold"], metric="auroc")[1]
    assert (cell.mean, cell.spread, cell.lost_spread) == (0.6, None, None)


def test_the_tables_hold_the_cells(tmp_path):
    cells = make_cells(measured(), ["heat", "cold"], metric="auroc")
    header, rows = table_rows([cell._asdict() for cell in cells])
    assert header == ["trained on", "tested on heat", "tested on cold"]
    assert rows == [
        ["heat", pytest.approx(0.9), pytest.approx(0.65)],
        ["cold", pytest.approx(0.55), pytest.approx(0.8)],
    ]
    write_tables(tmp_path, cells, RUNS, metric="auroc")
    with (tmp_path / TABLE_NAME).open(newline="") as handle:
        table = {row["trained_on"]: row for row in csv.DictReader(handle)}
    assert float(table["heat"]["cold.auroc"]) == pytest.approx(0.65)
    assert float(table["cold"]["heat.lost"]) == pytest.approx(0.35)
    assert table["cold"]["cold.loci"] == "220"
    with (tmp_path / CELLS_NAME).open(newline="") as handle:
        runs = list(csv.DictReader(handle))
    assert len(runs) == 16
    assert [row["auroc"] for row in runs if (row["trained_on"], row["tested_on"]) == ("heat", "cold")] == [
        "0.6",
        "0.7",
        "",
        "0.65",
    ]


def test_means_are_of_what_is_known():
    assert mean_known([0.5, None, 1.0, float("nan")]) == 0.75
    assert mean_known([None]) is None


def test_what_is_no_swap_is_refused(tmp_path):
    write_json(tmp_path / SWAP_NAME, dict.fromkeys(KEYS, 0) | {"cells": []})
    with pytest.raises(InputError, match=r"swap\.json: not the results of a swap experiment; run cisray swap again"):
        read_swap(tmp_path)
