import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.config import check_settings
from cisray.datasets.tables.table_rows import TableColumns, read_rows
from cisray.errors import InputError

TABLE = {
    "name": ["a", "b", "b", "", "e"],
    "seq": ["ACGT", "acgu", " GGRNN ", "TT", ""],
    "value": ["1.5", "NA", "-2", "3e1", "4"],
    "other": ["", "", "7", "nan", "5"],
    "depth": ["5", "6", "", "8", "9"],
    "set": ["x", "y", "x", "z", "x"],
}


def columns(**settings):
    default = {"files": [{"path": "t.csv"}], "sequences": ["seq"], "tracks": [{"column": "value"}]}
    return check_settings(default | settings, TableColumns, source="job")


@pytest.fixture
def read(tmp_path):
    def read(table, role=None, **settings):
        path = tmp_path / "t.csv"
        path.write_text(
            "\n".join([",".join(table), *(",".join(row) for row in zip(*table.values(), strict=True))]) + "\n"
        )
        return read_rows(columns(**settings), [path], role)

    return read


def texts(rows):
    letters = rows.letters
    return [
        "".join("ACGTN"[code] for code in letters.codes[start : start + length])
        for start, length in zip(letters.start, letters.length, strict=True)
    ]


def test_rows_hold_codes_and_numbers_and_what_is_missing_is_counted(read):
    rows = read(
        TABLE,
        "set",
        tracks=[{"column": "value"}, {"column": "other", "name": "second"}],
        id="name",
        covariates=["depth"],
    )
    assert texts(rows) == ["ACGT", "GGNNN", "TT"]  # the second has no measurement, the last no sequence
    np.testing.assert_array_equal(rows.targets, np.array([[1.5, np.nan], [-2, 7], [30, np.nan]], np.float32))
    np.testing.assert_array_equal(rows.covariates, np.array([[5], [np.nan], [8]], np.float32))
    assert rows.ids.to_pylist() == ["a", "b", "t.csv:4"]
    assert rows.role.to_pylist() == ["x", "x", "z"]
    assert rows.number.tolist() == [1, 3, 4]
    assert rows.dropped == {"rows without a sequence": 1, "rows without any measurement": 1}
    assert rows.facts["ambiguous letters read as N"] == 1
    assert rows.facts["missing covariates"] == 1
    assert rows.facts["rows read"] == 5


def test_rna_and_lower_case_are_dna(read):
    table = {"seq": ["ACGUu", "acgtT"], "value": ["1", "2"]}
    assert texts(read(table)) == ["ACGTT", "ACGTT"]


def test_names_that_come_again_are_told_apart(read):
    table = {"name": ["a", "b", "a"], "seq": ["A", "C", "G"], "value": ["1", "2", "3"]}
    rows = read(table, id="name")
    assert rows.ids.to_pylist() == ["a:t.csv:1", "b", "a:t.csv:3"]
    assert rows.facts["rows with a name that comes again"] == 2
    assert read(table).ids.to_pylist() == ["t.csv:1", "t.csv:2", "t.csv:3"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/t.csv", "a/u.csv"], ["t.csv:1", "u.csv:1"]),
        (["a/t.csv", "b/t.csv"], ["a/t.csv:1", "b/t.csv:1"]),
        (["a/t.csv", "a/t.csv"], ["a/t.csv#1:1", "a/t.csv#2:1"]),  # once for each of two columns, say
    ],
)
def test_rows_of_several_files_have_names_of_their_own(tmp_path, paths, expected):
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("seq,value\nACGT,1\n")
    rows = read_rows(columns(files=[{"path": path} for path in paths]), [tmp_path / path for path in paths], None)
    assert rows.ids.to_pylist() == expected
    assert rows.file.tolist() == [0, 1]


def test_conditions_come_before_the_limit_and_both_are_counted(read):
    table = {"seq": ["A"] * 6, "value": list("123456"), "depth": ["9", "200", "", "300", "400", "100"]}
    rows = read(table, where=[{"column": "depth", "at_least": 100, "at_most": 350}], limit_rows=2)
    assert rows.targets[:, 0].tolist() == [2, 4]
    assert rows.dropped["rows that do not meet: depth at least 100 and at most 350"] == 3
    assert rows.dropped["rows behind the first limit_rows"] == 1
    rows = read(table, where=[{"column": "value", "one_of": ["1", "6"]}])
    assert rows.number.tolist() == [1, 6]
    assert rows.dropped["rows that do not meet: value one of 1, 6"] == 4


def test_labels_are_given_or_made_by_a_threshold_or_a_text(read):
    table = {"seq": ["A", "C", "G"], "value": ["0.246", "0.25", ""], "class": ["peak", "shuf", "nan"], "y": list("011")}
    tracks = [{"column": "value", "above": 0.246}, {"column": "class", "positive": ["peak"]}, {"column": "y"}]
    rows = read(table, kind="labels", tracks=tracks)
    np.testing.assert_array_equal(rows.targets, [[0, 1, 0], [1, 0, 1], [np.nan, np.nan, 1]])


def test_related_sequences_come_from_columns_or_from_lists(read, tmp_path):
    table = {"wild": ["AC", "GG"], "mutant": ["AT", ""], "value": ["1", "2"]}
    rows = read(table, sequences=["wild", "mutant"])
    assert texts(rows) == ["AC", "AT", "GG", ""]
    assert rows.first.tolist() == [0, 2, 4]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"sites": [["AC", "T"], None, ["G"], []], "value": [1, 2, 3, 4]}), path)
    rows = read_rows(columns(sequences=["sites"]), [path], None)
    assert texts(rows) == ["AC", "T", "G"]
    assert rows.first.tolist() == [0, 2, 3]
    assert rows.targets[:, 0].tolist() == [1, 3]
    assert rows.dropped["rows without a sequence"] == 2


def test_a_list_of_nothing_is_no_sequence(tmp_path):
    path = tmp_path / "t.parquet"
    lists = [[""], ["AC", ""], [None], [None, " "], ["", "G"]]
    pq.write_table(pa.table({"sites": lists, "value": range(5)}), path)
    rows = read_rows(columns(sequences=["sites"]), [path], None)
    assert texts(rows) == ["AC", "", "", "G"]
    assert rows.dropped["rows without a sequence"] == 3


def test_numbers_are_told_by_their_type_in_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    of_types = {"text": pa.array(["1", "NA"]).dictionary_encode(), "bool": [True, None], "large": [2**53 + 1, None]}
    pq.write_table(pa.table({"seq": ["A", "C"], "date": pa.array([1, 2], pa.date32())} | of_types), path)
    rows = read_rows(columns(tracks=[{"column": name} for name in of_types], limit_rows=1), [path], None)
    assert rows.targets.tolist() == [[1, 1, 2**53]]
    with pytest.raises(InputError, match=r"t.parquet: column date is of type date32\[day\]; wanted numbers"):
        read_rows(columns(tracks=[{"column": "date"}]), [path], None)


def test_weights_are_read(read):
    assert read(TABLE, weight="value", limit_rows=1).weights.tolist() == [1.5]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"seq": ["A", "AC*T"]}, {}, r"t.csv: row 2: its sequence holds '\*' at base 3; wanted letters of DNA or RNA"),
        ({"value": ["1", "high"]}, {}, r"t.csv: row 2: column value holds 'high'; wanted a number, or nothing"),
        ({"value": ["inf", "1"]}, {}, r"t.csv: row 1: column value holds inf; wanted a number"),
        ({"value": ["1", "0.5"]}, {"kind": "labels"}, r"t.csv: row 2: label value is 0.5; wanted 0 or 1: set above"),
        (
            {"value": ["1", "-1"]},
            {"weight": "value"},
            r"t.csv: row 2: weight value is -1; wanted a number of zero or m",
        ),
        (
            {},
            {"where": [{"column": "value", "at_least": 9}]},
            r"t.csv: no row is left \(2 rows that do not meet: value at least 9\); loosen where",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_and_row(read, change, settings, message):
    with pytest.raises(InputError, match=message):
        read({"seq": ["A", "C"], "value": ["1", "2"]} | change, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tracks": []}, r"wanted at least one of files, one of sequences and one of tracks"),
        ({"limit_rows": 0}, r"limit_rows=0; wanted a positive number"),
        ({"tracks": [{"column": "v", "above": 1}]}, r'above and positive make labels; set kind = "labels"'),
        (
            {"kind": "labels", "tracks": [{"column": "v", "above": 1, "positive": ["a"]}]},
            r"v: set above for numbers or positive for texts, not both",
        ),
        ({"where": [{"column": "v"}]}, r"column v: wanted at_least or at_most, or one_of"),
        ({"where": [{"column": "v", "at_least": 1, "one_of": ["a"]}]}, r"column v: wanted at_least or at_most, or one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        columns(**settings)
