import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pysam
import pytest

from cisray.errors import InputError
from cisray.genome.variants import read_variants
from cisray.scoring.alleles import Status
from cisray.scoring.exports import vcf
from cisray.scoring.exports.vcf import VcfSpec, export_vcf
from cisray.scoring.exports.vcf_lines import to_bytes, vcf_lines
from cisray.scoring.manifest import ModelSource, Selection, Storage
from cisray.scoring.schema import read_genes, read_scores

DATA = os.environ.get("CISRAY_DATA")
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
    "CISRAY_STATUS=OK;CISRAY=C||liver|0|0,C||heart|0|0",
    "CISRAY_STATUS=OK,STAR,OK;CISRAY=A||liver|1|1,A||heart|-1|1,G||liver|1.2|1.44,G||heart|-1|1",
    "CISRAY_STATUS=MISSING_ALT",
    "CISRAY_STATUS=SYMBOLIC",
    "CISRAY_STATUS=OK;CISRAY=G||liver|4|16,G||heart|-4|16",
]
GENES = [
    (0, 0, "ENSG1", "A B", "+", -1000),
    (1, 0, "ENSG1", "A B", "+", 10),
    (1, 0, "ENSG22", None, "-", None),
    (1, 2, "ENSG1", "A B", "+", 10),
    (4, 0, "ENSG333", "C", "-", 5),
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text("\n".join(HEADER + BODY) + "\n")
    return path


@pytest.fixture
def export(source, tmp_path):
    """Write a table as VCF, and return its lines."""

    def write(scores_dir, *, source_vcf_path=source, **spec):
        found = export_vcf(scores_dir, tmp_path / "out.vcf.gz", source_vcf_path=source_vcf_path, spec=VcfSpec(**spec))
        return found, read_lines(found.path)

    return write


def read_lines(path):
    with gzip.open(path, "rt") as handle:
        return handle.read().splitlines()


def info_of(line):
    return dict(pair.split("=", 1) for pair in line.split("\t")[7].split(";") if "=" in pair)


def taken_apart(path, key):
    """Read one of our keys as split-vep does: by what follows Format: in its description."""
    with pysam.VariantFile(str(path)) as vcf:
        names = vcf.header.info[key].description.rpartition("Format: ")[2].split("|")
        for index, record in enumerate(vcf):
            for entry in record.info.get(key, ()):
                yield index, dict(zip(names, map(unquote, entry.split("|")), strict=True))


def test_records_stand_as_they_were_with_the_scores_behind(make_scores, export):
    found, lines = export(make_scores(*IN_ORDER))
    assert found.num_records == 5
    assert [line for line in lines if line in HEADER] == HEADER
    for before, after, added in zip(BODY, lines[-5:], ADDED, strict=True):
        old, new = before.split("\t"), after.split("\t")
        assert new[7] == (added if old[7] == "." else f"{old[7]};{added}")
        assert new[:7] + new[8:] == old[:7] + old[8:]


def test_every_value_of_the_table_is_in_the_vcf(make_scores, export):
    scores_dir = make_scores(*IN_ORDER, tracks=("a|b", "c,d %"))
    found, _ = export(scores_dir)
    rows = {(row["record_index"], row["alt"]): row for row in read_scores(scores_dir).to_pylist() if row["log2fc"]}
    entries = list(taken_apart(found.path, "CISRAY"))
    assert len(entries) == 2 * len(rows)
    for record, entry in entries:
        row = rows[record, entry["ALLELE"]]
        track = ["a|b", "c,d %"].index(entry["TRACK"])
        assert float(entry["LOG2FC"]) == pytest.approx(row["log2fc"][track], rel=5e-4)
        assert float(entry["L2_LOG2"]) == pytest.approx(row["l2_log2"][track], rel=5e-4)


def test_the_header_says_what_the_values_are(make_scores, export):
    first = ModelSource(uri="models:/yeast", version="3", digest="ab12")
    found, lines = export(make_scores(*IN_ORDER, ensemble=(first, ModelSource(uri="runs/b", digest="77"))))
    with pysam.VariantFile(str(found.path)) as vcf:
        info = vcf.header.info["CISRAY"]
        assert (info.number, info.type) == (".", "String")
        assert info.description.startswith("LOG2FC is log2(1 + a) - log2(1 + r); L2_LOG2 is norm2; r reference")
        assert info.description.endswith("Format: ALLELE|Consequence|TRACK|LOG2FC|L2_LOG2")
        assert (vcf.header.info["CISRAY_STATUS"].number, vcf.header.info["CISRAY_STATUS"].type) == ("A", "String")
    for line in (
        "##cisray_model_digest=ab12",
        "##cisray_model=models%3A/yeast%203",
        "##cisray_model_digest=77",
        "##cisray_model=runs/b",
    ):
        assert line in lines


def test_an_index_finds_the_records(make_scores, export, tmp_path):
    found, _ = export(make_scores(*IN_ORDER))
    assert found.index_path == tmp_path / "out.vcf.gz.tbi"
    assert found.why_no_index is None
    with pysam.VariantFile(str(found.path)) as vcf:
        assert next(vcf.fetch("1", 249, 250)).info["CISRAY_STATUS"] == ("MISSING_ALT",)
        assert [record.pos for record in vcf.fetch("2", 0, 8)] == [7]


def test_some_tracks_and_one_number_per_score(make_scores, export):
    found, lines = export(make_scores(*IN_ORDER), tracks=("heart",), per_score=True)
    second = info_of(lines[-4])
    assert second["CISRAY"] == "A||heart|-1|1,G||heart|-1|1"
    assert second["CISRAY_LOG2FC"] == "1,.,1.2"
    assert info_of(lines[-1])["CISRAY_LOG2FC"] == "4"
    assert info_of(lines[-3])["CISRAY_LOG2FC"] == "."
    with pysam.VariantFile(str(found.path)) as vcf:
        info = vcf.header.info["CISRAY_LOG2FC"]
        assert (info.number, info.type) == ("A", "Float")
        assert next(vcf).info["CISRAY_L2_LOG2"] == (0.0,)


def test_places_are_whole_and_have_no_track_that_is_moved_most():
    places = [12346.0, -57313.0, 9999.0, 0.0, -0.0, 0.123456, 1.5e8]
    assert list(map(vcf._number, places)) == ["12346", "-57313", "9999", "0", "0", "0.1235", "1.5e+08"]
    manifest = SimpleNamespace(scores={"max_gain": "x", "gain_offset": "y", "of another version": "z"})
    assert vcf._numbered(manifest) == ["max_gain", "of another version"]


def test_a_summary_names_the_track(make_scores, export):
    _, lines = export(make_scores(*IN_ORDER, storage=Storage(values="summary")), per_score=True)
    assert info_of(lines[-4])["CISRAY"] == "A||liver|1|liver|1,G||liver|1.2|liver|1.44"
    assert info_of(lines[-4])["CISRAY_LOG2FC"] == "1,.,1.2"
    (described,) = [line for line in lines if line.startswith("##INFO=<ID=CISRAY,")]
    assert described.endswith('Format: ALLELE|Consequence|LOG2FC_TRACK|LOG2FC|L2_LOG2_TRACK|L2_LOG2">')
    _, lines = export(make_scores(*IN_ORDER, storage=Storage(values="summary", tracks=("heart",))), per_score=True)
    assert info_of(lines[-4])["CISRAY"] == "A||heart|-1|1,G||heart|-1|1"
    assert info_of(lines[-4])["CISRAY_LOG2FC"] == "1,.,1.2"


def test_genes_have_a_key_of_their_own(make_scores, export):
    scores_dir = make_scores(*IN_ORDER, genes=GENES)
    found, lines = export(scores_dir)
    assert info_of(lines[-5])["CISRAY_GENE"] == ("C||ENSG1|A%20B|+|-1000|liver|0.05,C||ENSG1|A%20B|+|-1000|heart|-0.05")
    assert "CISRAY_GENE" not in info_of(lines[-3])
    expected = [
        (row["record_index"], row["gene_id"], track, row["gene_log2fc"][index])
        for row in read_genes(scores_dir).to_pylist()
        for index, track in enumerate(("liver", "heart"))
    ]
    entries = [
        (record, entry["GENE"], entry["TRACK"], float(entry["GENE_LOG2FC"]))
        for record, entry in taken_apart(found.path, "CISRAY_GENE")
    ]
    assert [entry[:3] for entry in entries] == [entry[:3] for entry in expected]
    np.testing.assert_allclose([entry[3] for entry in entries], [entry[3] for entry in expected], rtol=5e-4)


def test_what_a_selection_left_out_is_left_out(make_scores, export, source):
    selection = Selection(regions=("1:100-100", "2:8-9"), left_out=3, file_rows=7)
    found, lines = export(make_scores([0, 1, 3], [6], selection=selection))
    assert found.num_records == 3
    assert [line.split("\t")[1] for line in lines[-3:]] == ["100", "100", "9"]
    assert info_of(lines[-2])["CISRAY_STATUS"] == "OK,.,OK"
    with pytest.raises(InputError, match="record 2 is 1:100 AT A,\\*,G, but 1:100 AT A,G was scored"):
        export(make_scores([0, 1, 3], [6]))


def test_a_vcf_is_made_of_rows_that_were_no_vcf(make_scores, export):
    found, lines = export(make_scores(*IN_ORDER), source_vcf_path=None)
    assert found.num_records == 5
    assert lines[:3] == ["##fileformat=VCFv4.3", "##contig=<ID=1>", "##contig=<ID=2>"]
    for before, after, added in zip(BODY, lines[-5:], ADDED, strict=True):
        assert after.split("\t") == [*before.split("\t")[:5], ".", ".", added]
    with pysam.VariantFile(str(found.path)) as vcf:
        assert [record.pos for record in vcf.fetch("2", 0, 10)] == [7, 9]


@pytest.mark.parametrize("texts", [("1", ".", "", "C"), ("1", "a b", "A", "C"), ("1", ".", "A", "C,G")])
def test_rows_that_no_vcf_can_say_are_told(make_scores, export, texts, tmp_path):
    contig, name, ref, alt = texts
    scores_dir = make_scores([0], records=[(contig, 3, name, ref, (alt,), (Status.NON_ACGT,))])
    with pytest.raises(InputError, match=r"record 1, 1:3 .*cannot stand in a VCF"):
        export(scores_dir, source_vcf_path=None)
    assert not (tmp_path / "out.vcf.gz").exists()


UNSORTED = [("1", 200, ".", "A", ("C",), (Status.OK,)), ("1", 100, ".", "A", ("G",), (Status.OK,))]


def test_an_unsorted_file_keeps_its_order_and_says_why_it_has_no_index(make_scores, export, tmp_path):
    (tmp_path / "out.vcf.gz.tbi").write_text("of an older file")
    found, lines = export(make_scores([1], [0], records=UNSORTED), source_vcf_path=None)
    assert found.index_path is None
    assert found.why_no_index == "1:100 comes after 1:200"
    assert [path.name for path in tmp_path.glob("out*")] == ["out.vcf.gz"]
    assert [line.split("\t")[1] for line in lines[-2:]] == ["200", "100"]


def test_positions_beyond_a_tbi_index_get_a_csi(make_scores, export, tmp_path):
    found, _ = export(
        make_scores([0], records=[("1", 2**29 + 5, ".", "A", ("C",), (Status.OK,))]), source_vcf_path=None
    )
    assert found.index_path == tmp_path / "out.vcf.gz.csi"
    with pysam.VariantFile(str(found.path)) as vcf:
        assert [record.pos for record in vcf.fetch("1", 2**29, 2**29 + 10)] == [2**29 + 5]


def test_carriage_returns_end_before_the_scores(make_scores, export, tmp_path):
    records = [("1", 3, ".", "A", ("C",), (Status.OK,))]
    (tmp_path / "in.vcf").write_bytes(b"#CHROM\tPOS\r\n1\t3\t.\tA\tC\t.\t.\tX\r\n")
    _, lines = export(make_scores([0], records=records))
    assert lines[-1].endswith("\tX;CISRAY_STATUS=OK;CISRAY=C||liver|0|0,C||heart|0|0")


def test_a_table_without_rows_gives_a_header(make_scores, export, source):
    source.write_text("\n".join(HEADER) + "\n")
    found, lines = export(make_scores())
    assert found.num_records == 0
    assert lines[-1] == HEADER[-1]
    assert export(make_scores(), source_vcf_path=None)[1][-1].startswith("#CHROM")


def test_bad_sources_are_told_and_leave_nothing(make_scores, export, source, tmp_path):
    scores_dir = make_scores(*IN_ORDER, genes=GENES)
    text = source.read_text()
    for changed, message in [
        (text.replace("1\t250", "1\t251"), r"record 3 is 1:251 g \., but 1:250 g \. was scored"),
        (text.replace("A,*,G", "A,G,*"), r"record 2 is 1:100 AT A,G,\*, but 1:100 AT A,\*,G was scored"),
        (text.rsplit("\n", 2)[0] + "\n", "record 5 is in the score table only, the VCF has 4"),
        (text + BODY[-1] + "\n", "record 6 is in the VCF only"),
        (text.replace("##INFO=<ID=AF,", "##INFO=<ID=CISRAY,"), r"has CISRAY already.*INFO/CISRAY$"),
        (text.replace("##INFO=<ID=AF,", "##INFO=<ID=CISRAY_GENE,"), "has CISRAY_GENE already"),
        (text.encode(), r"in\.vcf: not readable to its end"),
        (text.replace("#CHROM", "#CONTIG"), "no line that starts with #CHROM"),
        (text.replace("2\t9\t.\tT\tG\t.\t.\t.\tGT\t0/1", "2\t9\t.\tT\tG"), "record 5 has fewer than 8 columns"),
    ]:
        source.write_bytes(changed.encode() if isinstance(changed, str) else gzip.compress(changed)[:-20])
        with pytest.raises(InputError, match=message):
            export(scores_dir)
    assert not [path for path in tmp_path.iterdir() if "out.vcf" in path.name]


def test_a_name_and_tracks_of_the_table_are_wanted(make_scores, export, tmp_path):
    scores_dir = make_scores(*IN_ORDER)
    with pytest.raises(InputError, match=r"out\.vcf: the VCF is written bgzipped"):
        export_vcf(scores_dir, tmp_path / "out.vcf")
    with pytest.raises(InputError, match="no values of the track 'lung'"):
        export(scores_dir, tracks=("lung",))


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
@pytest.mark.parametrize("name", ["vcf/z.vcf.gz", "yeast/natural_variants.vcf"])
def test_published_files_come_back_record_by_record(make_scores, export, name):
    path = Path(DATA) / name
    scorable = re.compile("[ACGT]+")
    rows = [
        (variant, Status.OK if scorable.fullmatch(variant.ref + variant.alt) else Status.SYMBOLIC)
        for variant in read_variants(path)
    ]
    rng = np.random.default_rng(0)
    block_of = rng.integers(5, size=rows[-1][0].record_index + 1)
    cuts = [[i for i, (variant, _) in enumerate(rows) if block_of[variant.record_index] == k] for k in range(5)]
    found, lines = export(make_scores(*cuts, rows=rows), source_vcf_path=path)
    before = b"".join(map(to_bytes, vcf_lines(path))).decode().splitlines()
    body = [line for line in before if not line.startswith("#")]
    assert [line for line in before if line.startswith("#")] == [
        line for line in lines if line.startswith("#") and "isray" not in line.lower().split(",")[0]
    ]
    for old, new in zip(body, lines[-len(body) :], strict=True):
        old, new = old.split("\t"), new.split("\t")
        assert new[7].split("CISRAY_STATUS=")[0].rstrip(";") == ("" if old[7] == "." else old[7])
        assert new[:7] + new[8:] == old[:7] + old[8:]
    assert found.num_records == len(body) == len(block_of)
    assert (found.index_path is None) == (found.why_no_index is not None)
    entries = sum(1 for _ in taken_apart(found.path, "CISRAY"))
    assert entries == 2 * sum(status is Status.OK for _, status in rows)


@pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is not installed")
def test_bcftools_takes_the_field_apart(make_scores, export):
    found, _ = export(make_scores(*IN_ORDER, genes=GENES), per_score=True)

    def run(*arguments):
        answer = subprocess.run(
            ["bcftools", *arguments, str(found.path)], capture_output=True, text=True, check=True, env=os.environ
        )
        return answer.stdout.splitlines()

    pattern = "%POS %ALLELE %TRACK %LOG2FC %L2_LOG2\n"
    lines = run("+split-vep", "-a", "CISRAY", "-d", "-f", pattern)
    assert lines[:3] == ["100 C liver 0 0", "100 C heart 0 0", "100 A liver 1 1"]
    assert len([line for line in lines if line.split()[1] != "."]) == 8
    assert run("view", "-H", "-i", "CISRAY_LOG2FC>3")[0].startswith("2\t9\t")
    genes = run("+split-vep", "-a", "CISRAY_GENE", "-d", "-f", "%POS %GENE %TSS_DISTANCE %TRACK %GENE_LOG2FC\n")
    assert genes[0] == "100 ENSG1 -1000 liver 0.05"
