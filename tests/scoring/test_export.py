import csv
import gzip
from urllib.parse import unquote

import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.scoring.alleles import Status
from cisray.scoring.export import SortWatch, percent_encoded, write_tsv, write_vcf

IN_ORDER = [range(4), range(4, 7)]
HEADER = [
    "##fileformat=VCFv4.2",
    "##contig=<ID=1>",
    "##contig=<ID=2>",
    '##INFO=<ID=END,Number=1,Type=Integer,Description="x">',
    '##FILTER=<ID=q10,Description="x">',
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="x">',
    '##INFO=<ID=AF,Number=A,Type=Float,Description="x">',
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1",
]
BODY = [  # odd on purpose: numbers and keys that a VCF library would write in another way
    "1\t100\trs1\tA\tC\t10.00\tPASS\tAF=0.10\tGT\t0/1",
    "1\t100\t.\tAT\tA,*,G\t.\t.\t.\tGT\t1|2",
    "1\t250\trs3;x\tg\t.\t1e3\tq10\tUNDECLARED\tGT\t./.",
    "2\t7\t.\tT\t<DEL>\t.\t.\tEND=9;X=é\tGT\t0/1",
    "2\t9\t.\tT\tG\t.\t.\t.\tGT\t0/1",
]
ADDED = [
    "CISRAY_STATUS=OK;CISRAY_LOG2FC=C|0|0;CISRAY_L2_LOG2=C|0|0",
    "CISRAY_STATUS=OK,STAR,OK;CISRAY_LOG2FC=A|1|-1,*|.|.,G|1.2|-1;CISRAY_L2_LOG2=A|1|1,*|.|.,G|1.44|1",
    "CISRAY_STATUS=MISSING_ALT;CISRAY_LOG2FC=.|.|.;CISRAY_L2_LOG2=.|.|.",
    "CISRAY_STATUS=SYMBOLIC;CISRAY_LOG2FC=<DEL>|.|.;CISRAY_L2_LOG2=<DEL>|.|.",
    "CISRAY_STATUS=OK;CISRAY_LOG2FC=G|4|-4;CISRAY_L2_LOG2=G|16|16",
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text("\n".join(HEADER + BODY) + "\n")
    return path


def read_lines(path):
    with gzip.open(path, "rt") as handle:
        return handle.read().splitlines()


def test_records_stand_as_they_were_with_the_scores_behind(make_scores, source, tmp_path):
    export = write_vcf(make_scores(*IN_ORDER), source, tmp_path / "out.vcf.gz")
    lines = read_lines(export.path)
    assert export.num_records == 5
    assert [line for line in lines if line in HEADER] == HEADER
    for before, after, added in zip(BODY, lines[-5:], ADDED, strict=True):
        old, new = before.split("\t"), after.split("\t")
        assert new[7] == (added if old[7] == "." else f"{old[7]};{added}")
        assert new[:7] + new[8:] == old[:7] + old[8:]


def test_the_header_says_what_the_values_are(make_scores, source, tmp_path):
    write_vcf(make_scores(*IN_ORDER), source, tmp_path / "out.vcf.gz")
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as vcf:
        info = vcf.header.info["CISRAY_LOG2FC"]
        assert (info.number, info.type) == (".", "String")
        assert info.description.startswith("log2(1 + a) - log2(1 + r)")
        assert info.description.endswith("Format: ALLELE|liver|heart")
        assert (vcf.header.info["CISRAY_STATUS"].number, vcf.header.info["CISRAY_STATUS"].type) == (
            "A",
            "String",
        )
    lines = read_lines(tmp_path / "out.vcf.gz")
    assert "##cisray_model_digest=ab12" in lines
    assert "##cisray_model=models%3A/yeast%203" in lines


def test_a_vcf_library_reads_what_was_written(make_scores, source, tmp_path):
    export = write_vcf(make_scores(*IN_ORDER), source, tmp_path / "out.vcf.gz")
    assert export.index_path == tmp_path / "out.vcf.gz.tbi"
    with pysam.VariantFile(str(export.path)) as vcf:
        second = list(vcf)[1]
        assert second.info["CISRAY_STATUS"] == ("OK", "STAR", "OK")
        assert second.info["CISRAY_LOG2FC"] == ("A|1|-1", "*|.|.", "G|1.2|-1")
        third = next(vcf.fetch("1", 249, 250))
        assert third.alts is None
        assert third.info["CISRAY_STATUS"] == ("MISSING_ALT",)
        assert [record.pos for record in vcf.fetch("2", 0, 8)] == [7]


def test_compressed_and_binary_sources_give_the_same_scores(make_scores, source, tmp_path):
    scores_dir = make_scores(*IN_ORDER)
    plain = read_lines(write_vcf(scores_dir, source, tmp_path / "plain.vcf.gz").path)
    zipped = tmp_path / "in.vcf.gz"
    zipped.write_bytes(gzip.compress(source.read_bytes()))
    assert read_lines(write_vcf(scores_dir, zipped, tmp_path / "zipped.vcf.gz").path) == plain
    binary = str(tmp_path / "in.bcf")
    source.write_text(source.read_text().replace("UNDECLARED", ".").replace(";X=é", ""))
    with pysam.VariantFile(str(source)) as vcf, pysam.VariantFile(binary, "wb", header=vcf.header) as bcf:
        for record in vcf:
            bcf.write(record)
    from_binary = read_lines(write_vcf(scores_dir, tmp_path / "in.bcf", tmp_path / "binary.vcf.gz").path)
    assert [line.split("\t")[7].partition("CISRAY_")[2] for line in from_binary[-5:]] == [
        added.removeprefix("CISRAY_") for added in ADDED
    ]


UNSORTED = [("1", 200, ".", "A", ("C",), (Status.OK,)), ("1", 100, ".", "A", ("G",), (Status.OK,))]


def test_an_unsorted_file_keeps_its_order_and_has_no_index(make_scores, tmp_path):
    lines = [f"1\t{pos}\t.\tA\t{alt}\t.\t.\t." for pos, alt in ((200, "C"), (100, "G"))]
    (tmp_path / "in.vcf").write_text("\n".join(["#CHROM\tPOS", *lines, ""]))
    (tmp_path / "out.vcf.gz.tbi").write_text("of an older file")
    scores_dir = make_scores([1], [0], records=UNSORTED)
    export = write_vcf(scores_dir, tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    assert export.index_path is None
    assert [path.name for path in tmp_path.glob("out*")] == ["out.vcf.gz"]
    assert [line.split("\t")[1] for line in read_lines(export.path)[-2:]] == ["200", "100"]


@pytest.mark.parametrize(
    ("records", "is_sorted"),
    [
        ([], True),
        ([("2", 5), ("2", 5), ("1", 1)], True),
        ([("2", 5), ("2", 4)], False),
        ([("2", 5), ("1", 6), ("2", 7)], False),
    ],
)
def test_sort_watch(records, is_sorted):
    watch = SortWatch()
    for record in records:
        watch.see(*record)
    assert watch.is_sorted is is_sorted
    assert watch.largest_pos == max((pos for _, pos in records), default=0)


def test_positions_beyond_a_tbi_index_get_a_csi(make_scores, tmp_path):
    records = [("1", 2**29 + 5, ".", "A", ("C",), (Status.OK,))]
    (tmp_path / "in.vcf").write_text(f"{HEADER[0]}\n{HEADER[-1]}\n1\t{2**29 + 5}\t.\tA\tC\t.\t.\t.\tGT\t0\n")
    export = write_vcf(make_scores([0], records=records), tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    assert export.index_path == tmp_path / "out.vcf.gz.csi"
    with pysam.VariantFile(str(export.path)) as vcf:
        assert [record.pos for record in vcf.fetch("1", 2**29, 2**29 + 10)] == [2**29 + 5]


def test_carriage_returns_end_before_the_scores(make_scores, tmp_path):
    records = [("1", 3, ".", "A", ("C",), (Status.OK,))]
    (tmp_path / "in.vcf").write_bytes(b"#CHROM\tPOS\r\n1\t3\t.\tA\tC\t.\t.\tX\r\n")
    export = write_vcf(make_scores([0], records=records), tmp_path / "in.vcf", tmp_path / "out.vcf.gz")
    with gzip.open(export.path) as handle:
        assert handle.read().endswith(b"\tX;CISRAY_STATUS=OK;CISRAY_LOG2FC=C|0|0;CISRAY_L2_LOG2=C|0|0\n")


def test_reserved_characters_in_track_names(make_scores, source, tmp_path):
    scores_dir = make_scores(*IN_ORDER, tracks=('a|b "c"', "50%"))
    write_vcf(scores_dir, source, tmp_path / "out.vcf.gz")
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as vcf:
        assert vcf.header.info["CISRAY_LOG2FC"].description.endswith("ALLELE|a%7Cb%20%22c%22|50%25")


def test_bad_sources_are_told_and_leave_nothing(make_scores, source, tmp_path):
    scores_dir = make_scores(*IN_ORDER)
    out = tmp_path / "out.vcf.gz"
    text = source.read_text()
    for changed, message in [
        (text.replace("1\t250", "1\t251"), r"record 3 is 1:251 g \., but 1:250 g \. was scored"),
        (text.replace("A,*,G", "A,G,*"), r"record 2 is 1:100 AT A,G,\*"),
        (text.rsplit("\n", 2)[0] + "\n", "record 5 is in the score table only"),
        (text + BODY[-1] + "\n", "record 6 is in the VCF only"),
        (text.replace("##INFO=<ID=AF,", "##INFO=<ID=CISRAY_LOG2FC,"), "has CISRAY_LOG2FC already"),
        (text.encode(), r"in\.vcf: not readable to its end"),
        (text.replace("#CHROM", "#CONTIG"), "no line that starts with #CHROM"),
        (text.replace("2\t9\t.\tT\tG\t.\t.\t.\tGT\t0/1", "2\t9\t.\tT\tG"), "fewer than 8 columns"),
        ("", "no line that starts with #CHROM"),
    ]:
        source.write_bytes(changed.encode() if isinstance(changed, str) else gzip.compress(changed)[:-20])
        with pytest.raises(InputError, match=message):
            write_vcf(scores_dir, source, out)
    assert not [path for path in tmp_path.iterdir() if "out.vcf" in path.name]


def test_a_name_and_a_source_are_wanted(make_scores, source, tmp_path):
    scores_dir = make_scores(*IN_ORDER)
    with pytest.raises(InputError, match=r"out\.vcf: the VCF is written bgzipped"):
        write_vcf(scores_dir, source, tmp_path / "out.vcf")
    with pytest.raises(InputError, match=r"none\.vcf: no such file"):
        write_vcf(scores_dir, tmp_path / "none.vcf", tmp_path / "out.vcf.gz")


def test_percent_encoded_by_eye():
    assert percent_encoded("GATA1 50%|a;b=c,d") == "GATA1%2050%25%7Ca%3Bb%3Dc%2Cd"
    assert percent_encoded("<DEL> é") == "<DEL>%20é"


@settings(max_examples=50)
@given(name=st.text(st.characters(codec="utf-8"), max_size=8))
def test_percent_encoded_can_be_undone_and_breaks_no_field(name):
    encoded = percent_encoded(name)
    assert not set(encoded) & set(' \t\r\n%;=,|:"') - {"%"}
    assert unquote(encoded) == name


def test_tsv_has_a_row_per_allele_and_a_column_per_value(make_scores, tmp_path):
    write_tsv(make_scores(*IN_ORDER), tmp_path / "out.tsv")
    with (tmp_path / "out.tsv").open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert list(rows[0])[:5] == ["chrom", "pos", "id", "ref", "alt"]
    assert list(rows[0])[-4:] == ["log2fc:liver", "log2fc:heart", "l2_log2:liver", "l2_log2:heart"]
    assert [row["alt"] for row in rows] == ["C", "A", "*", "G", ".", "<DEL>", "G"]
    assert [row["log2fc:liver"] for row in rows] == ["0", "1", "", "1.2", "", "", "4"]
    assert [row["window_start"] for row in rows] == ["0", "1", "", "1", "", "", "4"]
    assert (tmp_path / "out.tsv").read_text().startswith("chrom\tpos")


def test_tsv_has_no_quotes_and_keeps_its_columns(make_scores, tmp_path):
    records = [("1", 3, 'rs"1', "A", ("C",), (Status.OK,))]
    write_tsv(make_scores([0], records=records, tracks=("CAGE:adrenal gland", 'a"b')), tmp_path / "out.tsv")
    header, row = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header[-4:-2] == ["log2fc:CAGE:adrenal gland", "log2fc:a%22b"]
    assert row[:5] == ["1", "3", "rs%221", "A", "C"]
    assert len(row) == len(header)


def test_tsv_of_no_rows_has_a_header(make_scores, tmp_path):
    write_tsv(make_scores(), tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text().count("\n") == 1
