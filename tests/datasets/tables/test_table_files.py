import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.config import check_settings
from cisray.datasets.tables.table_files import TableFile, read_parts
from cisray.errors import InputError

ROWS = [{"name": "a", "seq": "ACGT", "value": "1.5"}, {"name": "b", "seq": "GG", "value": ""}]


def read(path, wanted, **settings):
    file = check_settings({"path": path.name, **settings}, TableFile, source="job")
    return pa.concat_tables(read_parts(file, path, wanted)).to_pylist()


def csv_text(delimiter=",", *, header=True):
    lines = [delimiter.join(ROWS[0])] if header else []
    return "\n".join(lines + [delimiter.join(row.values()) for row in ROWS]) + "\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_text_is_told_by_its_content(tmp_path, delimiter, packed):
    path = tmp_path / "table.seq"
    path.write_bytes(gzip.compress(csv_text(delimiter).encode()) if packed else csv_text(delimiter).encode())
    assert read(path, ["name", "seq", "value"]) == ROWS


def test_parquet_and_other_delimiters_and_byte_order_marks_and_quotes(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", ["seq", "name"]) == [{"seq": row["seq"], "name": row["name"]} for row in ROWS]
    (tmp_path / "t.txt").write_text(csv_text(";"))
    assert read(tmp_path / "t.txt", ["name", "seq", "value"], delimiter=";") == ROWS
    (tmp_path / "t.csv").write_text('\ufeff"name","se,q",x,x\r\na,ACGT,1,2\r\n')
    assert read(tmp_path / "t.csv", ["name", "se,q"]) == [{"name": "a", "se,q": "ACGT"}]


def test_a_file_without_a_header_its_names_and_its_constant_columns(tmp_path):
    (tmp_path / "t.txt").write_text(csv_text(" ", header=False).replace(" \n", " 0\n"))
    settings = {
        "columns": ["name", "seq", "mean"],
        "delimiter": " ",
        "rename": {"value": "mean"},
        "values": {"library": "wild", "active": 1},
    }
    rows = read(tmp_path / "t.txt", ["value", "active", "library"], **settings)
    assert rows == [
        {"value": "1.5", "active": "1", "library": "wild"},
        {"value": "0", "active": "1", "library": "wild"},
    ]


def test_one_column_of_a_file_may_be_two_of_the_table(tmp_path):
    (tmp_path / "t.csv").write_text(csv_text())
    rows = read(tmp_path / "t.csv", ["weight", "seq", "value"], rename={"weight": "value"})
    assert rows == [{"weight": row["value"], "seq": row["seq"], "value": row["value"]} for row in ROWS]


def test_fasta_headers_give_columns(tmp_path):
    (tmp_path / "t.fa").write_text("> chr1,+,5; class:1\nACGT\nacgn\n\n>b\tclass:0\r\nGG\r\n>c class:0\n")
    rows = read(tmp_path / "t.fa", ["id", "sequence", "bound", "description"], header_pattern=r"class:(?P<bound>\d)")
    assert rows == [
        {"id": "chr1,+,5;", "sequence": "ACGTacgn", "bound": "1", "description": "chr1,+,5; class:1"},
        {"id": "b", "sequence": "GG", "bound": "0", "description": "b\tclass:0"},
        {"id": "c", "sequence": "", "bound": "0", "description": "c class:0"},
    ]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"seq,valeu\nA,1\n", {}, r"t: no column 'value'; the nearest are valeu; say which file calls it what in ren"),
        (b"seq,value,value\nA,1,2\n", {}, r"t: two columns are called 'value'; give each its own name"),
        (b"seq,value\nA,1\nA\n", {}, r"t: not a readable table \(.*Expected 2 columns, got 1"),
        (b"\nseq,value\n", {}, r"t: its first line is empty; wanted a table of columns, or FASTA"),
        (b"seq,value\rA,1\rC,2\r", {}, r"t: its first line is no header \(.*lines ended by a line feed"),
        (b"\xff\xfe\x00seq\n", {}, r"t: not a text file; wanted CSV, TSV, Parquet or FASTA"),
        (b"seq,value\n\xff,1\n", {}, r"t: not a readable table \(.*UTF8"),
        (b"PAR1 and nothing", {}, r"t: not a readable table \("),
        (b">a\nAC\n", {}, r"t: no column 'seq'; there are id, description, sequence"),
        (
            b">a\nAC\n",
            {"header_pattern": r"v=(?P<value>\d)(?P<seq>)"},
            r"t: record 1: header 'a' does not fit header_pattern",
        ),
        (b">a \xff\nAC\n", {"rename": {"seq": "sequence", "value": "id"}}, r"t: not a text file; wanted FASTA"),
        (gzip.compress(b"seq,value\nA,1\n" * 9, mtime=0)[:-12], {}, r"t: truncated or damaged gzip file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, settings, message):
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path, ["seq", "value"], **settings)


def test_a_folder_and_a_damaged_page_are_named(tmp_path):
    with pytest.raises(InputError, match="a folder; wanted a file, so name each of its files"):
        read(tmp_path, ["seq"])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"seq": ["ACGT" * 9] * 99}), path, use_dictionary=False)
    page = path.read_bytes()
    path.write_bytes(page[:40] + bytes(len(page) - 540) + page[-500:])
    with pytest.raises(InputError, match=r"t.parquet: damaged or not readable \(.*copy or make it again"):
        read(path, ["seq"])


def test_a_bgzip_file_without_its_end_is_refused(tmp_path):
    head = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    (tmp_path / "t.gz").write_bytes(head + b"x")
    with pytest.raises(InputError, match=r"truncated, the block that ends a bgzip file is missing"):
        read(tmp_path / "t.gz", ["seq"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": ", "}, r"t: delimiter=', '; wanted one character"),
        ({"header_pattern": "("}, r"t: header_pattern='\(' is no regular expression"),
        ({"header_pattern": "class"}, r"t: header_pattern='class' names no group; write \(\?P<name>"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings({"path": "t", **settings}, TableFile, source="job")
