import gzip
from collections import Counter

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome import coverage as coverage_module
from cisray.genome.coverage import check_ends, coverage_kind, read_coverage

TOP = "# made by hand\nbrowser position c1\ntrack type=bedGraph name=x\n\n"


def columns(coverage):
    return {
        contig: list(zip(*(column.tolist() for column in runs), strict=True)) for contig, runs in coverage.runs.items()
    }


def write(path, text):
    raw = text.encode()
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    if path.suffix == ".bgz":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(raw)
    else:
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize("name", ["f.bedGraph", "f.bdg.gz", "f.bg", "f.bedgraph.bgz"])
@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bedgraph_is_read_as_it_stands(tmp_path, name, separator, end):
    text = TOP + "c2\t5\t7\t1.5\nc2\t7\t8\t-2\n\nc1\t0\t3\t1e3\nc1\t10\t2147483647\t0"
    coverage = read_coverage(write(tmp_path / name, text.replace("\t", separator).replace("\n", end)))
    assert columns(coverage) == {"c2": [(5, 7, 1.5), (7, 8, -2)], "c1": [(0, 3, 1000), (10, 2147483647, 0)]}
    assert np.isnan(coverage.empty)
    assert [column.dtype for column in coverage.runs["c1"]] == [np.int32, np.int32, np.float32]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=30))
def test_bed_counts_intervals(tmp_path, intervals):
    lines = [f"{c}\t{start}\t{start + width}\tx\t0\n" for c, start, width in sorted(intervals)]
    (tmp_path / "f.bed").write_text("".join(lines))
    read_coverage.__globals__["_read_coverage"].cache_clear()  # examples may be written within a tick of the clock
    coverage = read_coverage(tmp_path / "f.bed")
    depth = Counter((c, base) for c, start, width in intervals for base in range(start, start + width))
    found = {
        (contig, base): value
        for contig, runs in columns(coverage).items()
        for start, end, value in runs
        for base in range(start, end)
    }
    assert found == depth
    assert coverage.empty == 0


def test_a_file_is_parsed_in_blocks_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage_module, "_BLOCK_BYTES", 1000)
    rows = [(contig, start, start + 2, start % 7) for contig in ("c1", "c2", "c3") for start in range(0, 900, 3)]
    path = write(tmp_path / "f.bdg", "".join("{}\t{}\t{}\t{}\n".format(*row) for row in rows))
    coverage = read_coverage(path)
    assert [(c, *run) for c, runs in columns(coverage).items() for run in runs] == rows
    assert read_coverage(path) is coverage
    lines = path.read_text().splitlines()
    for at, line, match in [
        (410, "c2\t327\t329\t1", r"line 411 .* overlaps the line above it, c2:327-329"),
        (410, "c1\t990\t991\t1", r"line 411 .* comes back to contig c1; sort the file: sort -k1,1 -k2,2n"),
        (700, "c3\t290\t292\t1", r"line 701 .* starts before the line above it, c3:297-299; sort the file"),
    ]:
        write(path, "\n".join([*lines[:at], line, *lines[at + 1 :], ""]))
        with pytest.raises(InputError, match=match):
            read_coverage(path)
        write(tmp_path / "f.bed", path.read_text())
        if "overlaps" in match:
            read_coverage(tmp_path / "f.bed")  # of BED they are counted
        else:
            with pytest.raises(InputError, match=match):
                read_coverage(tmp_path / "f.bed")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("c1\t4\t9\t1", r"overlaps the line above it, c1:0-5; a base has one value: merge them"),
        ("c1\t0\t5\t1", r"overlaps the line above it"),
        ("c1\t-1\t5\t1", r"spans -1-5; wanted a start of 0 or more and an end beyond it"),
        ("c1\t9\t9\t1", r"spans 9-9; wanted"),
        ("c1\t9\t8\t1", r"spans 9-8; wanted"),
        ("c1\t9\t2147483648\t1", r"spans 9-2147483648; wanted"),
        ("c1\t9\tx\t1", r"has '9' and 'x' for a start and an end; wanted whole numbers"),
        ("c1\t9\t1e3\t1", r"has '9' and '1e3' for"),
        ("c1\t9\t10\t", r"has the value ''; wanted a finite number"),
        ("c1\t9\t10\tnan", r"has the value 'nan'; wanted a finite number, and no line where there is no signal"),
        ("c1\t9\t10\t1e39", r"has the value '1e39'; wanted a finite"),
        ("c1\t9\t10", r"has 3 columns where the first line of data has 4; wanted 4 columns"),
        ("c1\t9\t10\t1\t2", r"has 5 columns where the first line of data has 4"),
        ("\t9\t10\t1", r"names no contig; bedGraph has 4 columns, contig, start, end and value"),
        ("#c1\t9\t10\t1", r"is no data; comments and track lines may only stand on top, and a file holds one track"),
        ("track type=bedGraph", r"is no data; comments and track lines"),
        ("   ", r"has 1 columns where the first line"),
    ],
)
def test_a_bad_line_of_bedgraph_is_told_by_its_number(tmp_path, line, match):
    for name in ("f.bdg", "f.bdg.gz"):
        path = write(tmp_path / name, f"{TOP}c1\t0\t5\t1\n\n{line}\nc1\t100\t110\t1\n")
        with pytest.raises(InputError, match=rf"{name}: line 7 \(.*\) {match}"):
            read_coverage(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("c1\t0\n", r"f\.bed: line 1 .* has 2 columns; BED has contig, start and end, parted by one tab or blank"),
        ("c1\t0\t5\nc1\t5\t5\n", r"f\.bed: line 2 .* spans 5-5; wanted"),
        ("c1  0  5\n", r"f\.bed: line 1 .* has '' and '0' for"),
        ("# nothing\n\n", r"f\.bed: holds no line of data; wanted BED"),
        ("", r"f\.bed: holds no line of data; wanted BED"),
    ],
)
def test_a_bad_bed_file_is_told(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        read_coverage(write(tmp_path / "f.bed", text))


def test_a_bedgraph_of_other_columns_is_told(tmp_path):
    with pytest.raises(InputError, match=r"line 1 \('c1\\t0\\t5'\) has 3 columns; bedGraph has 4"):
        read_coverage(write(tmp_path / "f.bdg", "c1\t0\t5\n"))


def test_a_damaged_file_is_told(tmp_path):
    text = "".join(f"c1\t{start}\t{start + 1}\t{start % 97}\n" for start in range(20_000))
    whole = write(tmp_path / "f.bdg.gz", text).read_bytes()
    (tmp_path / "cut.bdg.gz").write_bytes(whole[:-2000])
    with pytest.raises(InputError, match=r"cut\.bdg\.gz: truncated or damaged gzip file"):
        read_coverage(tmp_path / "cut.bdg.gz")
    blocks = write(tmp_path / "f.bdg.bgz", text).read_bytes()
    (tmp_path / "cut.bdg.bgz").write_bytes(blocks[:-28])
    with pytest.raises(InputError, match=r"cut\.bdg\.bgz: truncated, the block that ends a bgzip file is missing"):
        read_coverage(tmp_path / "cut.bdg.bgz")
    for raw in (b"c1\t0\t5\t1\n\xff\xfe\t0\t5\t1\n", b"\xff\xfe\t0\t5\t1\n"):
        (tmp_path / "other.bdg").write_bytes(raw)
        with pytest.raises(InputError, match=r"other\.bdg: not a text file; wanted bedGraph"):
            read_coverage(tmp_path / "other.bdg")
    with pytest.raises(InputError, match=r"none\.bdg: no such file, but a bedGraph or BED file"):
        read_coverage(tmp_path / "none.bdg")


def test_lines_beyond_their_contig_are_told(tmp_path):
    coverage = read_coverage(write(tmp_path / "f.bdg", TOP + "c1\t0\t5\t1\nc1\t5\t9\t1\nc2\t0\t90\t1\n"))
    check_ends(coverage, {"c1": 9})
    with pytest.raises(
        InputError, match=r"f\.bdg: line 6 \('c1\\t5\\t9\\t1'\) ends beyond c1, which has 8 bases; another"
    ):
        check_ends(coverage, {"c1": 8, "c2": 90})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.bed", "BED"),
        ("a.narrowPeak.gz", "BED"),
        ("A.BEDGRAPH", "bedGraph"),
        ("a.bdg.bgz", "bedGraph"),
        ("a.bw", None),
        ("a.txt", None),
    ],
)
def test_the_kind_is_told_by_the_name(tmp_path, name, kind):
    assert coverage_kind(tmp_path / name) == kind
    if kind is None:
        with pytest.raises(InputError, match="neither bedGraph nor BED by its name; wanted one that ends in"):
            read_coverage(write(tmp_path / name, "c1\t0\t5\n"))
