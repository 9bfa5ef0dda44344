import gzip

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cisray.genome.bed
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, overlap_bp, read_bed, rows_by_contig

SOME = "#chrom\tstart\tend\nbrowser hide all\ntrack name=peaks\n\n"
SOME += "chr2\t5\t9\tpeak 1\t7\nchr1\t0\t3\tp2\t8\t+\nchr2\t1\t3\tp3\t9\n"
interval_lists = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12)


def test_intervals_come_in_the_files_order_with_their_lines(tmp_path):
    (tmp_path / "f.bed").write_text(SOME)
    bed = read_bed(tmp_path / "f.bed")
    assert len(bed) == 3
    assert bed.path == tmp_path / "f.bed"
    assert bed.contigs == ["chr2", "chr1"]
    assert bed.contig.tolist() == [0, 1, 0]
    assert bed.start.tolist() == [5, 0, 1]
    assert bed.end.tolist() == [9, 3, 3]
    assert bed.line.tolist() == [5, 6, 7]
    assert [column.tolist() for column in bed.columns] == [["peak 1", "p2", "p3"], ["7", "8", "9"]]
    assert bed.column(5, called="score").tolist() == ["7", "8", "9"]
    assert bed.where(1) == f"{tmp_path}/f.bed: line 6 (chr1:0-3)"
    with pytest.raises(InputError, match=r"f\.bed: 5 columns; wanted the strand in column 6"):
        bed.column(6, called="strand")


@pytest.mark.parametrize("part_lines", [1, 2, 3, 4, 9])
def test_columns_are_packed_part_by_part(tmp_path, monkeypatch, part_lines):
    monkeypatch.setattr(cisray.genome.bed, "_PART_LINES", part_lines)
    rows = [("a", "1", "x"), ("b", "2"), ("c", "3", "z"), ("d", "4", "z", "more")]
    (tmp_path / "f.bed").write_text("".join("\t".join(("chr1", "0", "5", *row)) + "\n" for row in rows))
    bed = read_bed(tmp_path / "f.bed")
    assert [column.tolist() for column in bed.columns] == [list("abcd"), list("1234")]


def test_one_long_name_does_not_make_all_the_others_long(tmp_path):
    names = ["long" * 1000, *("short" for _ in range(999))]
    (tmp_path / "f.bed").write_text("".join(f"chr1\t0\t5\t{name}\t7\n" for name in names))
    bed = read_bed(tmp_path / "f.bed")
    assert sum(column.nbytes for column in bed.columns) < 2 * (tmp_path / "f.bed").stat().st_size
    assert bed.column(4, called="name").tolist() == names


def test_every_packing_and_line_end_is_read_alike(tmp_path):
    (tmp_path / "plain.bed").write_text(SOME)
    (tmp_path / "dos.bed").write_text(SOME.replace("\n", "\r\n"))
    (tmp_path / "unended.bed").write_text(SOME.rstrip("\n"))
    (tmp_path / "packed.bed.gz").write_bytes(gzip.compress(SOME.encode()))
    with pysam.BGZFile(str(tmp_path / "blocks.bed.gz"), "wb") as file:
        file.write(SOME.encode())
    first, *others = (read_bed(str(path)) for path in sorted(tmp_path.iterdir()))
    assert len(others) == 4
    for other in others:
        assert other.contigs == first.contigs
        assert all(np.array_equal(a, b) for a, b in zip(first[2:5], other[2:5], strict=True))
        assert [column.tolist() for column in other.columns] == [column.tolist() for column in first.columns]


def test_blanks_part_columns_where_there_is_no_tab(tmp_path):
    (tmp_path / "f.bed").write_text("chr1 0  5 name\nchr1   5 9 other\n")
    bed = read_bed(tmp_path / "f.bed")
    assert bed.end.tolist() == [5, 9]
    assert bed.columns[0].tolist() == ["name", "other"]


def test_a_contig_may_be_called_like_a_track_line(tmp_path):
    (tmp_path / "f.bed").write_text("track1\t0\t5\nbrowser_contig\t0\t5\n")
    assert read_bed(tmp_path / "f.bed").contigs == ["track1", "browser_contig"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("chr1\t5", "line 8: 2 columns; wanted contig, start and end, parted by tabs"),
        ("chr1\tx\t5", "line 8: 'x' to '5' are not positions"),
        ("chr1\t1_0\t20", "line 8: '1_0' to '20' are not positions"),
        ("chr1\t1\t20.5", "line 8: '1' to '20.5' are not positions"),
        ("chr1\t-1\t5", "line 8: starts at -1; BED counts bases from 0"),
        ("chr1\t5\t5", r"line 8: chr1:5-5 holds no base; BED ends behind the last base \(0-based half-open\)"),
        ("chr1\t7\t5", "line 8: chr1:7-5 holds no base"),
        ("chr1\t7\t9999999999999999999", "line 8: ends at 9999999999999999999"),
        ("\t7\t9", "line 8: names no contig"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path, line, match):
    (tmp_path / "f.bed").write_text(SOME + line + "\n")
    with pytest.raises(InputError, match=rf"f\.bed: {match}"):
        read_bed(tmp_path / "f.bed")


def test_a_bad_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.bed: no such file, but a BED file was expected here"):
        read_bed(tmp_path / "none.bed")
    (tmp_path / "f.bed").write_text("# nothing\n\ntrack name=x\n")
    with pytest.raises(InputError, match=r"f\.bed: holds no interval; wanted lines of contig, start and end"):
        read_bed(tmp_path / "f.bed")
    (tmp_path / "f.bed").write_bytes(b"\xff\xfe\t0\t5\n")
    with pytest.raises(InputError, match=r"f\.bed: not a text file; wanted BED"):
        read_bed(tmp_path / "f.bed")
    (tmp_path / "f.bed.gz").write_bytes(gzip.compress(SOME.encode())[:-9])
    with pytest.raises(InputError, match=r"f\.bed\.gz: truncated or damaged gzip file \(.*\); copy"):
        read_bed(tmp_path / "f.bed.gz")
    with pysam.BGZFile(str(tmp_path / "g.bed.gz"), "wb") as file:
        file.write(SOME.encode())
    (tmp_path / "g.bed.gz").write_bytes((tmp_path / "g.bed.gz").read_bytes()[:-28])
    with pytest.raises(InputError, match=r"g\.bed\.gz: truncated, the block that ends a bgzip file is missing"):
        read_bed(tmp_path / "g.bed.gz")


def test_rows_are_sorted_within_the_genomes_contigs(tmp_path):
    (tmp_path / "f.bed").write_text("2\t5\t9\nX\t1\t2\n2\t1\t4\n1\t0\t3\n2\t1\t3\n")
    bed = read_bed(tmp_path / "f.bed")
    rows = rows_by_contig(bed, {"1": "chr1", "2": "chr2", "3": "chr3"})
    assert {contig: found.tolist() for contig, found in rows.items()} == {"chr2": [4, 2, 0], "chr1": [3]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(interval_lists, interval_lists)
def test_merging_and_overlap_are_those_of_sets_of_bases(intervals, queries):
    start, width = (
        np.array(column, np.int64) for column in (zip(*sorted(intervals), strict=True) if intervals else ([], []))
    )
    merged_start, merged_end = merge_intervals(start, start + width)
    bases = {base for at, size in intervals for base in range(at, at + size)}
    assert [base for at, end in zip(merged_start, merged_end, strict=True) for base in range(at, end)] == sorted(bases)
    assert (merged_start[1:] > merged_end[:-1]).all()  # those that touch are joined
    of_start, of_width = (
        np.array(column, np.int64) for column in (zip(*queries, strict=True) if queries else ([], []))
    )
    found = overlap_bp(merged_start, merged_end, of_start=of_start, of_end=of_start + of_width)
    assert found.dtype == np.int64
    assert found.tolist() == [len(bases & set(range(at, at + size))) for at, size in queries]
