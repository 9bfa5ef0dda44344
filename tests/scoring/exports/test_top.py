import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cisray.errors import InputError
from cisray.scoring.alleles import Status
from cisray.scoring.exports.top import make_keys, merge_keys, read_keys, write_top
from cisray.scoring.manifest import Storage
from cisray.scoring.schema import read_scores

IN_ORDER = [range(4), range(4, 7)]


@pytest.mark.parametrize("cuts", [IN_ORDER, [[0, 4, 6], [1, 2, 3, 5]], [[row] for row in range(7)]])
def test_the_strongest_are_those_of_a_sort_of_the_whole_table(make_scores, tmp_path, cuts):
    scores_dir = make_scores(*cuts)
    write_top(scores_dir, tmp_path / "top.parquet", num_top=3)
    found = pq.ParquetFile(tmp_path / "top.parquet").read().to_pylist()
    rows = [row for row in read_scores(scores_dir).to_pylist() if row["log2fc"] is not None]
    expected = [
        (score, track, rank + 1, row[score][index], row["record_index"], row["allele_index"], row["alt"], row["status"])
        for score in ("log2fc", "l2_log2")
        for index, track in enumerate(("liver", "heart"))
        for rank, row in enumerate(sorted(rows, key=lambda row: -abs(row[score][index]))[:3])
    ]
    names = ("score", "track", "rank", "value", "record_index", "allele_index", "alt", "status")
    assert [tuple(row[name] for name in names) for row in found] == expected


def test_the_text_is_plain(make_scores, tmp_path):
    records = [("1", 3, 'rs"1', "A", ("C",), (Status.OK,))]
    write_top(make_scores([0], records=records, tracks=('a"b',)), tmp_path / "top.tsv", num_top=5)
    with (tmp_path / "top.tsv").open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [(row["score"], row["track"], row["id"]) for row in rows] == [
        ("log2fc", "a%22b", "rs%221"),
        ("l2_log2", "a%22b", "rs%221"),
    ]


def test_a_table_without_rows_has_none_on_top(make_scores, tmp_path):
    write_top(make_scores(), tmp_path / "top.parquet", num_top=3)
    assert pq.read_metadata(tmp_path / "top.parquet").num_rows == 0


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 30), st.integers(1, 3)),
        elements=st.sampled_from([0, -1, 1, 2, -3e38, 1e-45]),
    ),
    num_top=st.integers(1, 6),
    data=st.data(),
)
def test_equal_values_come_in_input_order_however_they_are_cut(values, num_top, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    keys, numbers = np.empty((values.shape[1], 0), np.uint64), 3 * np.arange(len(values))
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        keys = merge_keys(keys, make_keys(values[start:end], numbers[start:end]), num_top)
    found, rows = read_keys(np.sort(keys, axis=1)[:, ::-1])
    for track in range(values.shape[1]):
        chosen = sorted(range(len(values)), key=lambda row: (-abs(values[row, track]), row))[:num_top]
        assert rows[track].tolist() == [3 * row for row in chosen]
        assert found[track].tolist() == values[chosen, track].tolist()


@pytest.mark.parametrize(
    ("name", "num_top", "storage", "message"),
    [
        ("top.csv", 3, Storage(), r"top\.csv: wanted a name that ends with \.tsv or \.parquet"),
        ("top.tsv", 0, Storage(), "num_top=0; wanted at least one"),
        ("top.tsv", 3, Storage(values="summary"), "no values per track of 'log2fc'"),
    ],
)
def test_what_cannot_be_written_is_told(make_scores, tmp_path, name, num_top, storage, message):
    with pytest.raises(InputError, match=message):
        write_top(make_scores(*IN_ORDER, storage=storage), tmp_path / name, num_top=num_top)


def test_scores_of_genes_rank_no_rows(make_scores, tmp_path):
    scores_dir = make_scores(scores={}, noise_floor={})
    with pytest.raises(InputError, match="scores of genes or places only"):
        write_top(scores_dir, tmp_path / "top.tsv", num_top=1)
