import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome import variant_tables
from cisray.genome.variant_tables import is_table, read_table_records
from cisray.genome.variants import Record

ROWS = [
    Record("chr1", 5, "rs1", "A", ["C"]),
    Record("2", 1, ".", "acg", ["a", "<DEL>", "*"]),
    Record("HLA-A*01:01", 99_999_999_999, "é", "N", ["."]),
]


def write(path, rows=ROWS, header="chrom\tpos\tid\tref\talt", end="\n"):
    lines = [header] + [f"{r.contig}\t{r.pos}\t{r.id}\t{r.ref}\t{','.join(r.alts)}" for r in rows]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def collected(path):
    """Read one by one, so that rows before an error are kept."""
    rows = []
    try:
        for row in read_table_records(path):
            rows.append(row)  # noqa: PERF402 - a comprehension would lose the rows before the error
    except InputError as error:
        return rows, str(error)
    return rows, None


def test_a_text_table_is_read_verbatim(tmp_path):
    plain = write(tmp_path / "v.tsv")
    assert is_table(plain)
    assert list(read_table_records(plain)) == ROWS
    assert list(read_table_records(write(tmp_path / "crlf.tsv", end="\r\n"))) == ROWS
    pysam.tabix_compress(str(plain), str(tmp_path / "b.tsv.gz"))
    (tmp_path / "g.tsv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.write_bytes(plain.read_bytes()[:-1])  # the last newline
    for path in (plain, tmp_path / "b.tsv.gz", tmp_path / "g.tsv.gz"):
        assert is_table(path)
        assert list(read_table_records(str(path))) == ROWS
    assert list(read_table_records(write(tmp_path / "none.tsv", []))) == []


@pytest.mark.parametrize(
    "header",
    [
        "#CHROM\tPOS\tID\tREF\tALT\tmore",
        "#chrom\tPosition\trsid\tReference\tAlt_allele\tmore",
        "chr\tpos\tsnp\tref_allele\talternate\tmore",
        "Contig\tpos\tvariant_id\tref\talt\tmore",
    ],
)
def test_columns_have_other_names_and_others_beside_them(tmp_path, header):
    path = tmp_path / "v.tsv"
    path.write_text(f'{header}\nchr1\t5\trs1\tA\tC\t"free text\n')
    assert is_table(path) == (header[:10] != "#CHROM\tPOS")  # which is a VCF without its first lines
    assert list(read_table_records(path)) == ROWS[:1]


def test_columns_may_stand_in_any_order_and_id_be_missing(tmp_path):
    path = tmp_path / "v.tsv"
    path.write_text("score\talt\tref\tpos\tchrom\n0.5\tC\tA\t5\tchr1\n\tG,T\tA\t07\tchr1\n")
    assert list(read_table_records(path)) == [
        Record("chr1", 5, ".", "A", ["C"]),
        Record("chr1", 7, ".", "A", ["G", "T"]),
    ]
    path.write_text("id\talt\tref\tpos\tchrom\n\tC\tA\t5\tchr1\nNA\tC\tA\t5\tNA\n")
    assert list(read_table_records(path)) == [Record("chr1", 5, ".", "A", ["C"]), Record("NA", 5, "NA", "A", ["C"])]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("number", [pa.int32(), pa.int64(), pa.uint32(), pa.string()])
def test_a_parquet_table_is_read_like_text(tmp_path, text, number):
    rows = ROWS[:2]
    columns = {
        "Chrom": pa.array([r.contig for r in rows]).cast(text),
        "POS": pa.array([r.pos for r in rows]).cast(number),
    }
    columns |= {"ref": pa.array([r.ref for r in rows]).cast(text), "ALT": pa.array([",".join(r.alts) for r in rows])}
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table(columns | {"ID": pa.array(["rs1", None]), "more": pa.array([[1], None])}), path)
    assert is_table(path)
    assert list(read_table_records(path)) == rows


def test_many_blocks_are_one_file(tmp_path, monkeypatch):
    rows = [Record("c1", 1 + number, f"rs{number}", "A", ["C"]) for number in range(1000)]
    path = write(tmp_path / "v.tsv", rows)
    for size in (64, 1000, 1 << 20):
        monkeypatch.setattr(variant_tables, "_BLOCK_BYTES", size)
        assert list(read_table_records(path)) == rows
    monkeypatch.setattr(variant_tables, "_BLOCK_BYTES", 64)
    with path.open("a") as handle:
        handle.write("c1\t5\t.\tA\tC\nc1\tx\t.\tA\tC\nc1\t6\t.\tA\tC\n")
    found, error = collected(path)
    assert len(found) == 1001
    assert f"{path}: line 1003 has the position 'x'" in error
    monkeypatch.setattr(variant_tables, "_BATCH_ROWS", 7)
    table = pa.table({"chrom": ["c1"] * 20, "pos": range(20), "ref": ["A"] * 19 + ["A-"], "alt": ["C"] * 20})
    pq.write_table(table, tmp_path / "v.parquet")
    found, error = collected(tmp_path / "v.parquet")
    assert [row.pos for row in found] == list(range(19))
    assert "v.parquet: row 20 has the REF 'A-'" in error


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("c1\t5\t.\tA", "line 3: Expected 5 columns, got 4: c1"),
        ("c1\t5\t.\tA\tC\tG", "line 3: Expected 5 columns, got 6: c1"),
        ("", "line 3 has the position ''"),
        ("c1\t-5\t.\tA\tC", "line 3 has the position '-5'; wanted a number from 1"),
        ("c1\t5.0\t.\tA\tC", "line 3 has the position '5.0'"),
        ("c1\t\t.\tA\tC", "line 3 has the position ''"),
        ("c1\t²\t.\tA\tC", "line 3 has the position '²'"),
        ("c1\t5\t.\tA\t", "line 3 has the ALT ''; wanted alleles"),
        ("c1\t5\t.\tAT\t-", "line 3 has the ALT '-'; wanted alleles.* VCF writes a deletion with the base before it"),
        ("c1\t5\t.\t\tA", "line 3 has the REF ''"),
        ("c 1\t5\t.\tC\tA", "line 3 has the contig 'c 1'"),
        ("\t5\t.\tC\tA", "line 3 has the contig ''"),
        ("c1\t5\ta;\tC\tA", "line 3 has the ID 'a;'"),
    ],
)
def test_a_bad_line_is_told_after_the_good_ones(tmp_path, line, told):
    path = write(tmp_path / "v.tsv", ROWS[:1])
    with path.open("a") as handle:
        handle.write(f"{line}\nc1\t6\t.\tA\tC\n")
    with pytest.raises(InputError, match=rf"v\.tsv: .*{told}.*mend the line"):
        list(read_table_records(path))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"pos": [1.5]}, r"column 'pos' is of the type double; wanted text, or integers for positions"),
        ({"ref": [["A"]]}, r"column 'ref' is of the type list"),
        ({"pos": [None]}, r"row 1 has the position ''"),
        ({"alt": [None]}, r"row 1 has the ALT ''"),
        ({"chrom": pa.array([None], pa.string())}, r"row 1 has the contig ''"),
        ({"CHR": ["c2"]}, r"the columns 'chrom' and 'CHR' both mean chrom; rename one"),
    ],
)
def test_a_bad_parquet_table_is_refused(tmp_path, columns, match):
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"chrom": ["c1"], "pos": [1], "ref": ["A"], "alt": ["C"]} | columns), path)
    with pytest.raises(InputError, match=r"v\.parquet: " + match):
        list(read_table_records(path))


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: no such file, but a table of variants, TSV or Parquet,"):
        list(read_table_records(tmp_path / "none.tsv"))
    path = tmp_path / "v.tsv"
    path.write_text("chrom\tpos\tref\nc1\t1\tA\n")
    assert is_table(path)  # it says so, and then lacks a column
    with pytest.raises(InputError, match=r"no column alt; there are chrom, pos, ref; wanted a line that names"):
        list(read_table_records(path))
    path.write_bytes(b"chrom\tpos\tref\talt\nc1\t1\tA\t\xe9\n")
    with pytest.raises(InputError, match=r"v\.tsv: .*(UTF8|UTF-8|not a text file)"):
        list(read_table_records(path))
    path.write_bytes(b"\xff\xfe\x00chrom")
    assert not is_table(path)
    with pytest.raises(InputError, match=r"v\.tsv: not a text file; wanted a line that names the columns"):
        list(read_table_records(path))
    for text in ("", "##fileformat=VCFv4.2\n", "#CHROM\tPOS\tID\tREF\tALT\n", "c1\t5\tA\tC\n", "chrom,pos,ref,alt\n"):
        path.write_text(text)
        assert not is_table(path)
    parquet = tmp_path / "v.parquet"
    pq.write_table(pa.table({"chrom": ["c1"], "pos": [1], "ref": ["A"], "alt": ["C"]}), parquet)
    parquet.write_bytes(parquet.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"v\.parquet: not a readable Parquet file .*; copy or make it again"):
        list(read_table_records(parquet))


def test_cut_files_are_told(tmp_path):
    rows = [Record("c1", number, f"rs{number * 7919 % 10007}", "A", ["C"]) for number in range(20_000)]
    plain = write(tmp_path / "v.tsv", rows)
    packed = gzip.compress(plain.read_bytes())
    plain.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"v\.tsv: truncated or damaged gzip file"):
        list(read_table_records(plain))
    plain.write_bytes(packed[:15])
    assert not is_table(plain)
    bgzipped = tmp_path / "b.tsv.gz"
    pysam.tabix_compress(str(write(tmp_path / "w.tsv", rows)), str(bgzipped))
    bgzipped.write_bytes(bgzipped.read_bytes()[:-28])
    with pytest.raises(InputError, match=r"b\.tsv\.gz: truncated, the block that ends a bgzip file is missing"):
        list(read_table_records(bgzipped))


rows = st.lists(
    st.builds(
        Record,
        st.text("chr1_X|*:", min_size=1, max_size=5),
        st.integers(0, 2**40),
        st.sampled_from([".", "rs1", "a;b", 'quo"te', "NULL"]),
        st.text("ACGTNacgt", min_size=1, max_size=5),
        st.lists(st.text("ACGTR", min_size=1, max_size=4) | st.sampled_from(["*", "<DEL>"]), min_size=1, max_size=3),
        st.none(),
    ),
    max_size=20,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows)
def test_text_and_parquet_give_what_was_written(tmp_path, rows):
    assert list(read_table_records(write(tmp_path / "v.tsv", rows))) == rows
    columns = {"chrom": [r.contig for r in rows], "ref": [r.ref for r in rows], "id": [r.id for r in rows]}
    columns = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    columns |= {"pos": pa.array([r.pos for r in rows], pa.int64())}
    columns |= {"alt": pa.array([",".join(r.alts) for r in rows], pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    assert list(read_table_records(tmp_path / "v.parquet")) == rows
