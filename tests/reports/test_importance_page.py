import numpy as np
import pyarrow.parquet as pq
import pytest

from cisray.baselines.importance import Importance
from cisray.baselines.importance_table import IMPORTANCE_NAME, TABLE_NAME, importance_rows, write_table
from cisray.files import write_json
from cisray.reports.importance_page import MOST_ROWS, rows_of, write_importance_page

EVIL = "<b onclick='x'>&$_{"


@pytest.fixture
def folder(tmp_path):
    names = (EVIL, *(f"f{number}" for number in range(40)))
    lost = Importance("objective", "auroc lost", names, np.linspace(0.4, 0, 41)[:, None], accuracy=np.array([0.93]))
    told = Importance("subjective", "mean fall", ("AC", "GG"), np.array([[0.1, 0.2], [np.nan, 0.3]]))
    tables = {
        "shuffled": importance_rows("shuffled", lost, ["one"]),
        "change": importance_rows("change", told._replace(num_windows=np.array([4, 0])), ["one", "two"]),
    }
    for by, table in tables.items():
        pq.write_table(table, tmp_path / f"{by}.parquet")
    write_table(tmp_path / TABLE_NAME, {by: [tmp_path / f"{by}.parquet"] for by in tables})
    results = {
        "model": {"path": "mine", "architecture": "linear"},
        "dataset": EVIL,
        "num_windows": 1234,
        "measures": {
            "shuffled": {"sort": "objective", "measure": "auroc lost", "num_rows": 41, "accuracy": {"one": 0.93}},
            "change": {"sort": "subjective", "measure": "mean fall", "num_rows": 4},
        },
        "definitions": {"auroc": "the chance that"},
        "unseen": "another split",
        "settings": {"split": "test", "seed": 3, "digests": {"model": "ab12", "dataset": "cd34"}},
    }
    write_json(tmp_path / IMPORTANCE_NAME, results)
    return tmp_path


def test_every_measure_says_whether_it_is_objective(folder, read_page):
    page = read_page(write_importance_page(folder))
    assert "What matters to linear of mine" in page.text
    assert "1,234 windows of the test split of" in page.text
    assert "objective: accuracy lost on measured windows that the model has not learned from" in page.text
    assert "subjective: what the model does, right or wrong" in page.text
    shuffled = page.table("feature", "value")
    assert len(shuffled) == MOST_ROWS
    assert shuffled[0] == [EVIL, "0.400"]
    assert f"Shown are at most {MOST_ROWS} of 41 rows of a track, and 1 of 1 tracks" in page.text
    assert page.table("feature", "track", "value", "windows") == [
        ["AC", "one", "0.100", "4"],
        ["GG", "one", "–", "0"],
        ["GG", "two", "0.300", "0"],
        ["AC", "two", "0.200", "4"],
    ]
    assert "accuracy of the whole model, one" in page.text
    assert "0.930" in page.text
    assert "cd34" in page.text


def test_columns_without_a_value_are_left_out():
    row = {"by": "x", "feature": "a", "track": "t", "value": "1.5", "deviation": "", "frequency": "", "windows": ""}
    assert rows_of([row], "x", most=5) == (["feature", "value"], [["a", "1.500"]])
    assert rows_of([row | {"deviation": "0.25"}], "x", most=5)[0] == ["feature", "value", "deviation"]
