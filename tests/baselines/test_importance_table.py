import csv

import numpy as np
import pyarrow.parquet as pq
import pytest

from cisray.baselines.importance import Importance
from cisray.baselines.importance_table import (
    COLUMNS,
    IMPORTANCE_NAME,
    KEYS,
    TABLE_NAME,
    importance_rows,
    plain_values,
    read_importance,
    stability_rows,
    write_table,
)
from cisray.baselines.stability import Stability
from cisray.errors import InputError
from cisray.files import write_json

LOST = Importance(
    "objective",
    "auroc lost",
    ("AC", "GG", "TTT"),
    np.array([[0.1, -0.4], [0.3, np.nan], [-0.2, 0.0]]),
    np.array([[0.01, 0.02], [0.03, np.nan], [0.0, 0.0]]),
    np.array([0.9, 0.8]),
    np.array([5, 0, 7]),
)
TOLD = Importance("subjective", "weights", ("a", "b"), np.array([[0.5], [-2.0]]))
FITS = Stability("subjective", ("a",), np.array([[0.75]]), np.array([[1.5]]), np.array([[0.2]]), np.array([0.9]))


@pytest.fixture
def folder(tmp_path):
    tables = {
        "words": [importance_rows("words", LOST, ["one", "two"])],
        "coefficients": [importance_rows("coefficients", TOLD, ["one"])],
        "stability": [stability_rows(FITS, ["one"])],
    }
    for by, (table,) in tables.items():
        pq.write_table(table, tmp_path / f"{by}.parquet")
    write_table(tmp_path / TABLE_NAME, {by: [tmp_path / f"{by}.parquet"] for by in tables})
    return tmp_path


def test_what_matters_most_comes_first_by_measure_and_track(folder):
    with (folder / TABLE_NAME).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["by"], row["track"], row["feature"], row["value"]) for row in rows] == [
        ("words", "one", "GG", "0.3"),
        ("words", "one", "AC", "0.1"),
        ("words", "one", "TTT", "-0.2"),  # a loss below 0 is none
        ("words", "two", "TTT", "0.0"),
        ("words", "two", "AC", "-0.4"),
        ("words", "two", "GG", ""),
        ("coefficients", "one", "b", "-2.0"),  # of a weight the size counts
        ("coefficients", "one", "a", "0.5"),
        ("stability", "one", "a", "1.5"),
    ]
    assert rows[0]["windows"] == "0"
    assert (rows[0]["deviation"], rows[-3]["deviation"], rows[-1]["deviation"]) == ("0.03", "", "0.2")
    assert [row["frequency"] for row in rows[-2:]] == ["", "0.75"]
    assert {row["sort"] for row in rows[:6]} == {"objective"}


def test_what_is_no_number_is_none():
    assert plain_values(np.array([0.5, np.nan, np.inf])) == [0.5, None, None]
    assert plain_values(None) is None


def test_a_folder_without_a_finished_table_is_refused(folder):
    write_json(folder / IMPORTANCE_NAME, {"model": {}})
    with pytest.raises(InputError, match="not of an importance table; run cisray importance again"):
        read_importance(folder)
    write_json(folder / IMPORTANCE_NAME, dict.fromkeys(KEYS, 1))
    assert len(read_importance(folder)[1]) == 9
    (folder / TABLE_NAME).unlink()
    with pytest.raises(InputError, match=r"importance\.csv: no such file; run cisray importance again"):
        read_importance(folder)
