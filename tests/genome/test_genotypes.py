import gzip
from collections import Counter

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome import genotypes
from cisray.genome.genotypes import Fate, read_carried

META = "##fileformat=VCFv4.2\n##contig=<ID=c1>\n##contig=<ID=c2>\n##FILTER=<ID=q10,Description=.>\n"
META += (
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="G">\n##FORMAT=<ID=DP,Number=1,Type=Integer,Description="D">\n'
)
META += (
    '##INFO=<ID=END,Number=1,Type=Integer,Description="E">\n##INFO=<ID=SVLEN,Number=A,Type=Integer,Description="L">\n'
)
HEADER = META + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tPOS\n"  # the second sample is named POS
SITES = META + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
LINES = [
    "c1\t5\t.\tA\tC,GG\t.\tPASS\t.\tGT:DP\t0|1:7\t2|1",
    "c2\t7\t.\tA\tC\t.\t.\t.\tGT\t1\t0",
    "c1\t2\trs1\tAC\tt\t.\tPASS\t.\tGT\t1|1\t1|0",
    "c1\t9\t.\tA\tC\t.\tq10\t.\tGT\t1|1\t0/1",
    "c1\t9\t.\tA\t<DEL>,*\t.\tPASS\t.\tGT\t1|2\t2|1",
    "c1\t9\t.\tA\tN\t.\tPASS\t.\tDP\t3\t3",
    "c1\t9\t.\tR\tC\t.\tPASS\t.\tGT:DP\t1|1:.\t.:2",
    "c1\t9\t.\tA\t.\t.\tPASS\t.\tGT\t0/0\t./.",
]


def write(path, lines, header=HEADER):
    path.write_bytes((header + "".join(f"{line}\n" for line in lines)).encode())
    return path


def read(path, sample="A", **options):
    defaults = {"haplotype": 1, "unphased": "refuse", "with_failed": False}
    found = read_carried(path, sample=sample, **(defaults | options))
    return {
        name: (list(zip(one.pos.tolist(), one.ref.to_pylist(), one.alt.to_pylist(), one.fate, strict=True)), one.others)
        for name, one in found.items()
    }


def to_bcf(path):
    packed = path.with_suffix(".bcf")
    before = pysam.set_verbosity(0)
    with pysam.VariantFile(str(path)) as file, pysam.VariantFile(str(packed), "wb", header=file.header) as out:
        for record in file:
            out.write(record)
    pysam.set_verbosity(before)
    return packed


def test_each_record_gives_one_allele_or_is_counted(tmp_path):
    path = write(tmp_path / "v.vcf", LINES)
    others = Counter({Fate.FAILED_FILTER: 1, Fate.SYMBOL_OR_STAR: 1, Fate.WITHOUT_GENOTYPE: 1, Fate.OTHER_LETTERS: 1})
    assert read(path) == {
        "c1": ([(2, "AC", "t", 0)], others + Counter({Fate.SAME_AS_REFERENCE: 2})),
        "c2": ([(7, "A", "C", 0)], Counter()),
    }
    assert read(path, haplotype=2)["c1"][0] == [(5, "A", "C", 0), (2, "AC", "t", 0)]
    assert read(path, with_failed=True)["c1"][0] == [(2, "AC", "t", 0), (9, "A", "C", 0)]
    other = read(path, "POS", with_failed=True, unphased="alternate")
    assert other["c1"][0] == [(5, "A", "GG", 0), (2, "AC", "t", 0), (9, "A", "C", Fate.APPLIED_WITHOUT_PHASE)]
    assert other["c1"][1] == Counter({Fate.SYMBOL_OR_STAR: 1, Fate.WITHOUT_GENOTYPE: 3})
    assert other["c2"] == ([], Counter({Fate.SAME_AS_REFERENCE: 1}))


def test_gzip_bgzip_and_bcf_are_read_like_the_text(tmp_path):
    path = write(tmp_path / "v.vcf", LINES)
    (tmp_path / "plain.vcf.gz").write_bytes(gzip.compress(path.read_bytes()))
    pysam.tabix_compress(str(path), str(tmp_path / "v.vcf.gz"))
    write(tmp_path / "crlf.vcf", []).write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for sample in ("A", "POS"):
        for options in ({}, {"haplotype": 2, "with_failed": True, "unphased": "alternate"}):
            wanted = read(path, sample, **options)
            for name in ("plain.vcf.gz", "v.vcf.gz", "crlf.vcf"):
                assert read(tmp_path / name, sample, **options) == wanted, name
            assert read(to_bcf(path), sample, **options) == wanted
    sites = write(tmp_path / "s.vcf", ["\t".join(line.split("\t")[:8]) for line in LINES], SITES)
    wanted = read(sites, None)
    assert wanted["c1"][0] == [(5, "A", "C", 0), (2, "AC", "t", 0)]
    assert wanted["c1"][1][Fate.SAME_AS_REFERENCE] == 1  # it has no alternate allele
    assert read(to_bcf(sites), None) == wanted
    five = write(tmp_path / "5.vcf", ["c1\t5\t.\tA\tC"], META + "#CHROM\tPOS\tID\tREF\tALT\n")
    assert read(five, None) == {"c1": ([(5, "A", "C", 0)], Counter())}


calls = st.sampled_from(["0|1", "1|0", "1/1", "1", "0", ".", "./.", ".|1", "0/1", "1/2", "2|1", "2/2"])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["c1", "c2"]),
            st.integers(1, 99),
            st.text("ACGTN", min_size=1, max_size=3),
            st.lists(st.text("ACGTa", min_size=1, max_size=9), min_size=2, max_size=2),
            st.sampled_from(["PASS", ".", "q10"]),
            calls,
            calls,
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 200),
)
def test_bcf_and_text_in_blocks_of_any_size_are_the_same(tmp_path, rows, block):
    lines = [
        f"{contig}\t{pos}\t.\t{ref}\t{','.join(alts)}\t.\t{passed}\t.\tGT\t{one}\t{two}"
        for contig, pos, ref, alts, passed, one, two in rows
    ]
    path = write(tmp_path / "v.vcf", lines)
    options = {"haplotype": 2, "unphased": "alternate"}
    wanted = read(path, "POS", **options)
    assert sum(len(taken) + others.total() for taken, others in wanted.values()) == len(rows)
    assert list(wanted) == list(dict.fromkeys(row[0] for row in rows))
    assert read(to_bcf(path), "POS", **options) == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(genotypes, "_BLOCK_BYTES", block)
        assert read(path, "POS", **options) == wanted


def test_a_genotype_without_phase_is_refused_contig_by_contig(tmp_path):
    lines = [f"{contig}\t{pos}\t.\tA\tC\t.\tPASS\t.\tGT\t1/0\t0/0" for contig in ("c1", "c2") for pos in (4, 5)]
    for path in (write(tmp_path / "v.vcf", lines), to_bcf(tmp_path / "v.vcf")):
        found = read_carried(path, sample="A", haplotype=1, unphased="refuse", with_failed=False)
        for contig in ("c1", "c2"):
            told = f"{path}: {contig}:4: sample A has the genotype 1/0, heterozygous without phase; phase the file, or "
            assert found[contig].refusal == told + 'set unphased to "reference" or "alternate"'
            assert found[contig].others == Counter({Fate.UNPHASED: 2})
        found = read_carried(path, sample="POS", haplotype=1, unphased="refuse", with_failed=False)
        assert found["c1"].refusal is None


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["c1\t3\t.\tA\tC\t.\t.\t.\tGT\t0/x\t."], "v.vcf: c1:3: genotype 0/x is not numbers of alleles parted by"),
        (["c1\t3\t.\tA\tC\t.\t.\t.\tGT\t0//1\t."], "c1:3: genotype 0//1 is not numbers"),
        ([f"c1\t3\t.\tA\tC\t.\t.\t.\tGT\t{2**70}|1\t."], r"c1:3: genotype \d+\|1 is not numbers"),
        (["c1\t3\t.\tA\tC\t.\t.\t.\tGT\t\t."], "c1:3: genotype  is not numbers"),
        (["c1\t3\t.\tA\tC\t.\t.\t.\tGT\t2|1\t."], r"c1:3: genotype 2\|1 names allele 2, but ALT is C; mend"),
        (["c1\t3\t.\tA\tC\t.\t.\t.\tDP:GT\t2:1\t."], "c1:3: FORMAT is DP:GT; GT must come first, mend the record"),
        (
            ["c1\tx\t.\tA\tC\t.\t.\t.\tGT\t1\t."],
            r"v.vcf: In CSV column #1: line 10: .*invalid value 'x'; mend, copy or make",
        ),
        (["c1\t\t.\tA\tC\t.\t.\t.\tGT\t1\t."], "v.vcf: line 10 has no position; mend, copy or make the file again"),
        ([LINES[0], "", LINES[1]], "v.vcf: line 11 has no position"),
        ([LINES[0], "c1\t3\t.\tA", LINES[1]], "v.vcf: .*: line 11: Expected 11 columns, got 4: c1.*; mend, copy"),
        ([LINES[0], LINES[1] + "\t0"], "v.vcf: .*: line 11: Expected 11 columns, got 12: c2"),
        ([], "v.vcf: holds no record; give a file"),
    ],
)
def test_bad_records_are_refused_with_their_place(tmp_path, lines, match):
    path = write(tmp_path / "v.vcf", lines)
    with pytest.raises(InputError, match=match):
        read(path)
    with pytest.MonkeyPatch.context() as patch:  # the number of a line does not depend on where blocks end
        patch.setattr(genotypes, "_BLOCK_BYTES", 30)
        with pytest.raises(InputError, match=match):
            read(path)


def test_samples_that_are_not_there_and_not_named_are_refused(tmp_path):
    path = write(tmp_path / "v.vcf", LINES)
    sites = write(tmp_path / "s.vcf", ["c1\t5\t.\tA\tC\t.\t.\t."], SITES)
    for one, none in ((path, sites), (to_bcf(path), to_bcf(sites))):
        with pytest.raises(InputError, match="has the samples A, POS; say which one in sample"):
            read(one, None)
        with pytest.raises(InputError, match="no sample 'B'; there are A, POS"):
            read(one, "B")
        with pytest.raises(InputError, match="no sample 'B'; the file has no samples"):
            read(none, "B")
    many = write(tmp_path / "m.vcf", [], HEADER.replace("\tPOS\n", "\tB\tC\tD\tE\tF\tG\n"))
    with pytest.raises(InputError, match="A, B, C, D, E and 2 more; say which"):
        read(many, None)


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "v.vcf", LINES * 2000)
    pysam.tabix_compress(str(path), str(tmp_path / "v.vcf.gz"))
    whole, bcf, plain = (tmp_path / "v.vcf.gz").read_bytes(), to_bcf(path).read_bytes(), path.read_bytes()
    for name, damaged, match in (
        ("a.vcf.gz", whole[:-28], "a.vcf.gz: truncated, the block that ends a bgzip file is missing; copy or make it"),
        ("b.bcf", bcf[:-28], "b.bcf: truncated, the block that ends a bgzip file is missing; copy or make it"),
        ("c.bcf", bcf[:-60], "c.bcf: truncated"),
        ("d.bcf", bcf[:3000] + bytes(200) + bcf[3200:], "d.bcf: truncated or damaged BCF data"),
        (
            "e.vcf.gz",
            gzip.compress(plain)[:-9],
            "e.vcf.gz: truncated or damaged after line 9 .*; copy or make it again",
        ),
        ("f.vcf", plain[:-1], "f.vcf: line 16009, the last one, does not end in a newline; if it is whole, add one"),
        ("g.vcf", plain[:-2] + b"\xff\n", "g.vcf: .*: line 16009: .*invalid UTF8 data; mend"),
        ("h.vcf", b"c1\t1\n", "h.vcf: not a VCF file"),
        ("i.vcf", b"", "i.vcf: not a VCF file"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=match):
            read(tmp_path / name, "POS")
    with pytest.raises(InputError, match=r"none\.vcf: no such file, but a VCF or BCF file was expected"):
        read(tmp_path / "none.vcf")
