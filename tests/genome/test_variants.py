import gzip
import itertools
import os
import warnings
from pathlib import Path

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.variants import Variant, read_records, read_variants, variant_contigs

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
META = "##fileformat=VCFv4.2\n##contig=<ID=c1,length=1000>\n##contig=<ID=c2>\n"
META += (
    '##INFO=<ID=END,Number=1,Type=Integer,Description="End">\n##INFO=<ID=SVLEN,Number=A,Type=Integer,Description="L">\n'
)
HEADER = META + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
REST = "\t.\tPASS\t.\n"


def write(path, body="", header=HEADER):
    path.write_bytes((header + body).encode())
    return path


def bgzip(path):
    packed = path.with_suffix(".vcf.gz")
    pysam.tabix_compress(str(path), str(packed), force=True)
    return packed


def to_bcf(path, mode="wb"):
    packed = path.with_suffix(".bcf")
    before = pysam.set_verbosity(0)
    with pysam.VariantFile(str(path)) as file, pysam.VariantFile(str(packed), mode, header=file.header) as out:
        for record in file:
            out.write(record)
    pysam.set_verbosity(before)
    return packed


def many(count):
    return "".join(f"c1\t{number + 1}\trs{number}\tA\tC{REST}" for number in range(count))


def collected(path):
    """Read one by one, so that rows before an error are kept."""
    rows = []
    try:
        for row in read_variants(path):
            rows.append(row)  # noqa: PERF402 - a comprehension would lose the rows before the error
    except InputError as error:
        return rows, str(error)
    return rows, None


def test_every_record_and_allele_is_read_verbatim(tmp_path):
    lines = [
        ("c1", 5, "rs1;rs2", "acN", "g,R"),
        ("c2", 7, ".", "A", "<DEL>,*,G]c2:7],.A"),
        ("c1", 5, "rs1;rs2", "acN", "g"),  # seen before, and not in order
        ("zz|weird:name", 0, "é", "N", "."),
        ("c1", 99_999_999_999, "x", "RyK", "C,u"),
    ]
    body = "".join("\t".join(map(str, line)) + REST for line in lines)
    expected = [
        Variant(index, number, contig, pos, name, ref, alt)
        for index, (contig, pos, name, ref, alts) in enumerate(lines)
        for number, alt in enumerate(alts.split(","))
    ]
    path = write(tmp_path / "f.vcf", body)
    assert list(read_variants(path)) == expected
    assert expected[2] == (1, 0, "c2", 7, ".", "A", "<DEL>")
    assert expected[-3] == (3, 0, "zz|weird:name", 0, "é", "N", ".")
    assert list(read_variants(bgzip(path))) == expected
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_variants(str(path.with_suffix(".gz")))) == expected


def test_bcf_is_read_like_the_text_it_was_made_of(tmp_path):
    body = (
        f"c1\t5\trs1;rs2\tacN\tg,R{REST}c2\t7\t.\tA\t<DEL>,*,G]c2:7],.A{REST}c1\t5\tx\tA\t.{REST}"
        f"c1\t0\t.\tN\tA{REST}c2\t2147483647\ty\tA\t{'ACGT' * 3000}{REST}"
    )
    path = write(tmp_path / "f.vcf", body + many(3000))
    expected = list(read_variants(path))
    assert len(expected) == 3009
    for mode in ("wb", "wb0"):
        assert list(read_variants(to_bcf(path, mode))) == expected
    (tmp_path / "raw.bcf").write_bytes(gzip.decompress(to_bcf(path).read_bytes()))
    assert list(read_variants(tmp_path / "raw.bcf")) == expected
    assert variant_contigs(tmp_path / "raw.bcf") == variant_contigs(path) == {"c1": 1000, "c2": None}


alleles = st.one_of(st.text("ACGTNacgtRYK", min_size=1, max_size=6), st.sampled_from(["<DEL>", "]c1:5]A", "*", "."]))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["c1", "c2", "other"]),
            st.integers(0, 10_000),
            st.sampled_from([".", "rs1", "a;b"]),
            st.text("ACGTNacgt", min_size=1, max_size=5),
            st.lists(alleles, min_size=1, max_size=4).filter(lambda alts: alts == ["."] or "." not in alts),
        ),
        max_size=20,
    )
)
def test_well_formed_text_is_what_pysam_reads(tmp_path, rows):
    body = "".join(f"{c}\t{pos}\t{name}\t{ref}\t{','.join(alts)}{REST}" for c, pos, name, ref, alts in rows)
    path = write(tmp_path / "f.vcf", body)
    before = pysam.set_verbosity(0)
    with pysam.VariantFile(str(path)) as file:
        expected = [(r.chrom, r.pos, r.id or ".", r.ref, a) for r in file for a in r.alts or (".",)]
    pysam.set_verbosity(before)
    found = list(read_variants(path))
    assert [row[2:] for row in found] == expected
    assert [row[:2] for row in found] == [(i, k) for i, row in enumerate(rows) for k in range(len(row[4]))]


def test_a_header_alone_has_no_variants(tmp_path):
    path = write(tmp_path / "f.vcf")
    for whole in (path, bgzip(path), to_bcf(path)):
        assert list(read_variants(whole)) == []


def test_lines_of_windows_and_of_many_samples_are_read(tmp_path):
    body = "c1\t5\trs1\tA\tC\t.\tPASS\tDP=abc;;=\tGT\t0|1\t??\r\n"  # INFO and samples are nobody's business here
    path = write(tmp_path / "f.vcf", body, HEADER[:-1] + "\tFORMAT\tS1\tS2\r\n")
    assert list(read_variants(path)) == [(0, 0, "c1", 5, "rs1", "A", "C")]
    short = write(tmp_path / "g.vcf", "c1\t5\trs1\tA\tC\r\n", META + "#CHROM\tPOS\tID\tREF\tALT\r\n")
    assert list(read_variants(short)) == [(0, 0, "c1", 5, "rs1", "A", "C")]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("c1\t7\t.\tA", "line 9 has 4 columns where the line of #CHROM has 8"),
        ("c1\t7\t.\tA\n", "line 9 has 4 columns"),
        ("c1\t7\t.\tA\tC\t.\tPASS\t.", "line 9, the last one, does not end in a newline; if it is whole, add one"),
        ("\n", "line 9 has 1 columns"),
        ("c1\t7\t.\tA\tC\t.\tPASS\t.\tGT\t0/1\n", "line 9 has 10 columns where the line of #CHROM has 8"),
        ("c1\tseven\t.\tA\tC" + REST, "line 9 has the position 'seven'"),
        ("c1\t-7\t.\tA\tC" + REST, "line 9 has the position '-7'"),
        ("c1\t\t.\tA\tC" + REST, "line 9 has the position ''"),
        ("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n", "line 9 has the position 'POS'"),
    ],
)
def test_a_line_that_is_no_record_is_told_after_the_last_good_one(tmp_path, line, match):
    path = write(tmp_path / "f.vcf", many(1) + "c2\t6\t.\tG\tC" + REST + line)
    for file in (path, bgzip(path)):
        rows, error = collected(file)
        assert len(rows) == 2
        assert error is not None
        assert match in error
        assert str(file) in error
        assert "the last good record is c2:6 G" in error


def test_text_that_is_not_utf8_is_told(tmp_path):
    path = write(tmp_path / "f.vcf", many(1))
    path.write_bytes(path.read_bytes() + "c1\t9\té\tA\tC".encode("latin-1") + REST.encode())
    rows, error = collected(path)
    assert len(rows) == 1
    assert "line 8 is not UTF-8 text" in error


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a VCF file .its first line is nothing"),
        ("c1\t5\t.\tA\tC" + REST, "not a VCF file .its first line is 'c1"),
        ("chr1,5,A,C\n", "not a VCF file"),
        (META, "line 5 is not the line #CHROM"),
        (META + "c1\t5\t.\tA\tC" + REST, "line 6 is not the line #CHROM"),
        (HEADER.replace("\t", " "), "line 6 is not the line #CHROM.*with tabs"),
        (HEADER[:-1], "line 6 is not the line #CHROM.*if it was cut there"),
        (HEADER[:-30], "line 6 is not the line #CHROM"),
    ],
)
def test_a_file_without_a_whole_header_is_refused(tmp_path, text, match):
    path = write(tmp_path / "f.vcf", header=text)
    for function in (variant_contigs, lambda file: list(read_variants(file))):
        with pytest.raises(InputError, match=match):
            function(path)


def test_truncated_gzip_is_told_after_the_last_good_record(tmp_path):
    whole = gzip.compress((HEADER + many(20_000)).encode())
    path = tmp_path / "f.vcf.gz"
    for size in (len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:size])
        rows, error = collected(path)
        assert [row.record_index for row in rows] == list(range(len(rows)))
        assert 5_000 < len(rows) <= 20_000
        assert "truncated or damaged after line" in error
        assert f"the last good record is c1:{rows[-1].pos} A" in error
    for size in (3, 12, 60):  # within the header
        path.write_bytes(whole[:size])
        assert "there is no good record" in collected(path)[1]
    path.write_bytes(whole[: len(whole) // 2] + b"\x55" + whole[len(whole) // 2 + 1 :])
    assert "; the last good record is c1:" in collected(path)[1]  # the first nonsense in it, or its checksum


def test_truncated_bgzip_and_bcf_are_told_after_the_last_good_record(tmp_path):
    text = write(tmp_path / "f.vcf", many(20_000))
    for path in (bgzip(text), to_bcf(text)):
        whole = path.read_bytes()
        path.write_bytes(whole[:-28])
        rows, error = collected(path)
        assert len(rows) == 20_000  # cut between two blocks: nothing else tells
        assert "the end block of a bgzip file is missing; the last good record is c1:20000 A" in error
        path.write_bytes(whole[: len(whole) // 2])
        rows, error = collected(path)
        assert 1_000 < len(rows) < 20_000
        assert f"the last good record is c1:{rows[-1].pos} A" in error
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 4
        path.write_bytes(damaged)
        rows, error = collected(path)
        assert len(rows) < 20_000
        assert "truncated or damaged" in error


def test_bcf_without_compression_that_is_cut_is_told(tmp_path):
    raw = gzip.decompress(to_bcf(write(tmp_path / "f.vcf", many(100))).read_bytes())
    for cut in (1, 5, 20):
        (tmp_path / "raw.bcf").write_bytes(raw[:-cut])
        rows, error = collected(tmp_path / "raw.bcf")
        assert len(rows) == 99
        assert "the last good record is c1:99 A" in error
    (tmp_path / "raw.bcf").write_bytes(raw[:40])
    with pytest.raises(InputError, match=r"raw\.bcf: not a readable BCF file"):
        list(read_variants(tmp_path / "raw.bcf"))


def test_a_missing_file_is_told(tmp_path):
    for function in (variant_contigs, lambda path: list(read_variants(path))):
        with pytest.raises(InputError, match=r"none\.vcf: no such file, but a VCF or BCF"):
            function(tmp_path / "none.vcf")


def test_the_verbosity_of_pysam_is_given_back_even_between_two_records(tmp_path, capfd):
    path = to_bcf(write(tmp_path / "f.vcf", many(10)))
    path.write_bytes(path.read_bytes()[:-28])
    before = pysam.set_verbosity(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            next(read_variants(path))
            assert pysam.get_verbosity() == 3
            variant_contigs(path)
            collected(path)
            assert pysam.get_verbosity() == 3
    finally:
        pysam.set_verbosity(before)
    assert capfd.readouterr().err == ""


def test_variants_stream(tmp_path):
    path = write(tmp_path / "f.vcf", many(5) + "broken\n")
    assert [row.pos for row in itertools.islice(read_variants(path), 5)] == [1, 2, 3, 4, 5]


def test_contigs_are_those_of_the_header(tmp_path):
    lines = (
        "##contig=<ID=chr1,length=100>\n##contig=<ID=chr1,length=100>\n##contig=<length=5,ID=HLA-A*01:01>\n"
        '##contig=<ID=x,assembly="a,length=7",length=9,species="Homo sapiens">\n'
        "##contig=<ID=bare>\n##contig=<ID=bare,length=3>\n"
    )
    path = write(tmp_path / "f.vcf", f"unseen\t1\t.\tA\tC{REST}", HEADER.replace("##contig=<ID=c2>\n", lines))
    expected = {"c1": 1000, "chr1": 100, "HLA-A*01:01": 5, "x": 9, "bare": 3}
    assert variant_contigs(path) == variant_contigs(bgzip(path)) == expected
    assert [row.contig for row in read_variants(path)] == ["unseen"]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("##contig=<ID=a,length=5>\n##contig=<ID=a,length=6>\n", "the header has contig 'a' with 5 and 6 bases"),
        ("##contig=<ID=a,length=five>\n", "does not name a contig and its length"),
        ("##contig=<length=5>\n", "does not name a contig"),
    ],
)
def test_bad_contig_lines_are_refused(tmp_path, lines, match):
    with pytest.raises(InputError, match=match):
        variant_contigs(write(tmp_path / "f.vcf", header=lines + HEADER.replace("##fileformat=VCFv4.2\n", "")))


@needs_data
@pytest.mark.parametrize(
    ("name", "records", "rows"),
    [
        ("yeast/sacCer3_sample_variants.vcf.gz", 44_251, 44_251),
        ("yeast/natural_variants.vcf", 5_832, 5_832),
        ("vcf/z.vcf.gz", 28_998, 29_144),
    ],
)
def test_real_files_are_what_pysam_reads(name, records, rows):
    path = Path(DATA) / name
    before = pysam.set_verbosity(0)
    with pysam.VariantFile(str(path)) as file:
        expected = [(r.chrom, r.pos, r.id or ".", r.ref, a) for r in file for a in r.alts or (".",)]
        lengths = {contig.name: contig.length for contig in file.header.contigs.values()}
    pysam.set_verbosity(before)
    found = list(read_variants(path))
    assert (found[-1].record_index + 1, len(found)) == (records, rows)
    assert [row[2:] for row in found] == expected
    contigs = variant_contigs(path)
    assert contigs == {contig: lengths[contig] for contig in contigs}
    assert len(contigs) >= 17


def versioned(version, columns, line):
    """Write a file of one record, with two samples, as the specification's own test files are."""
    head = f"##fileformat=VCFv{version}\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1\tS2\n"
    fields = {"CHROM": "1", "POS": "123", "ID": "rs1", "REF": "C", "ALT": "T", "QUAL": "100", "FILTER": "PASS"}
    fields |= {"INFO": "AC=2;AF=0.1", "FORMAT": "GT:DS", "S1": "0|0:0.5", "S2": "0|1:1.0"} | columns
    return (head + (line or "\t".join(fields.values()) + "\n")).encode()


# what the "passed" families of the specification's test files are about: every one is a record
LEGAL = [
    {"ALT": alt}
    for alt in [
        *(
            "T,G",
            "T,CT",
            "TGA",
            ".A",
            "A.",
            "<DEL>",
            "<INS>",
            "<DUP>",
            "<INV>",
            "<CNV>",
            "<DUP:TANDEM>",
            "<DEL:ME:ALU>",
        ),
        *("<NON_REF>", "<*>", "*", ".", "n", "acgtn", "T,*", "T,<DEL>", "<CNV:TR>", "]1:100]AGT", "[1:100[AGT"),
        *("AGT]1:100]", "AGT[1:100[", "A[<ctg1>:7[", "C<ctg1>", "]HLA-A*01:01:9]T"),
        "<ID!\"#$%&'()*+-./;=?@[\\]^_`{|}~>",
    ]
]
LEGAL += [{"CHROM": contig} for contig in ("1", "<2>", "1ABC", "1.A", "<1A>", "<1*>", "1ABC:123", "HLA-A*01:01", "a,b")]
LEGAL += [{"POS": pos} for pos in ("0", "1", "0123", "2147483647", "249250622")]
LEGAL += [{"ID": name} for name in (".", "rs1;rs2", "a,b", "rs1=2", "esv1:5")]
LEGAL += [{"REF": ref} for ref in ("C", "CATGN", "n", "acgt", "N" * 3000)]
LEGAL += [{"QUAL": "."}, {"QUAL": "1e-9"}, {"FILTER": "."}, {"FILTER": "q10;s50"}, {"INFO": "."}, {"INFO": "H2;END=5"}]
LEGAL += [{"FORMAT": "DP", "S1": "3", "S2": "."}, {"S1": ".", "S2": "./."}, {"S1": "0", "S2": "/0/1/1"}]
# what the "failed" families say of the columns that are read here
ILLEGAL = [
    *(
        ({"ALT": alt}, f"line 3 has the ALT '{alt}'")
        for alt in ["A T", "A,,T", "A,", ",A", "", "A,.", "<INS>BLAH>", "<>"]
    ),
    *(
        ({"ALT": alt}, "line 3 has the ALT")
        for alt in ["[1:100[", "]1:5]", "A[1:5]", "A[1[", "A-", "-", "A1", "**", "<A B>"]
    ),
    *(({"ALT": alt}, "line 3 has the ALT") for alt in ["A[1:5[T", "<DEL>T", "..", "A*", "T;G", "?"]),
    *(({"CHROM": contig}, f"line 3 has the contig '{contig}'") for contig in ["<1", "1>", "chr 1", "", " 1", "a<1>"]),
    *(
        ({"POS": pos}, f"line 3 has the position '{pos}'")
        for pos in ["123abc", "-5", "+5", "1.5", "", ".", " 7", "1" * 19]
    ),
    *(({"ID": name}, f"line 3 has the ID '{name}'") for name in ["rs 1", ";rs1", "rs1;", "rs1;;rs2", "", ";"]),
    *(({"REF": ref}, f"line 3 has the REF '{ref}'") for ref in ["C,A", ".", "", "A C", "-", "<DEL>", "*", "A1", "J"]),
]


@pytest.mark.parametrize("version", ["4.1", "4.2", "4.3", "4.4"])
def test_every_legal_oddity_of_the_specification_is_a_record(tmp_path, version):
    for columns in LEGAL:
        path = tmp_path / "f.vcf"
        path.write_bytes(versioned(version, columns, None))
        wanted = {"CHROM": "1", "POS": "123", "ID": "rs1", "REF": "C", "ALT": "T"} | columns
        alts = wanted["ALT"].split(",")
        found = [tuple(map(str, row)) for row in read_variants(path)]
        expected = [(wanted["CHROM"], str(int(wanted["POS"])), wanted["ID"], wanted["REF"], alt) for alt in alts]
        assert [row[2:] for row in found] == expected, columns
        assert list(read_variants(bgzip(path))) == list(read_variants(path))


@pytest.mark.parametrize("version", ["4.1", "4.4"])
def test_every_illegal_line_of_the_specification_is_told_with_its_number(tmp_path, version):
    good = versioned(version, {}, None)
    for columns, told in ILLEGAL:
        path = tmp_path / "f.vcf"
        path.write_bytes(versioned(version, columns, None))
        rows, error = collected(path)
        assert (rows, error.startswith(f"{path}: {told}")) == ([], True), (columns, error)
        path.write_bytes(good + versioned(version, columns, None).splitlines(keepends=True)[-1])
        rows, error = collected(path)
        assert len(rows) == 1, columns
        assert error.startswith(f"{path}: {told.replace('line 3', 'line 4')}"), (columns, error)
        assert "the last good record is 1:123 C; mend" in error


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.text('AC\t\r \x00\x0b1.,;<>[]*:é#"-', min_size=1, max_size=30))
def test_no_line_crashes_the_reader_or_vanishes(tmp_path, line):
    path = tmp_path / "f.vcf"
    path.write_bytes(f"{HEADER}c1\t1\t.\tA\tC{REST}{line}\n".encode())
    rows, error = collected(path)
    assert rows[0][2:] == ("c1", 1, ".", "A", "C")
    assert len(rows) > 1 or "line 8" in error
    path.write_bytes(f"{HEADER}{line}{REST}".encode())
    rows, error = collected(path)
    assert rows or "line 7" in error


def with_samples(tmp_path, rows, names=("s1", "s2")):
    body = "".join(
        f"c1\t{5 + k}\t.\tA\t{alts}\t.\tPASS\t.\t" + "\t".join(rest) + "\n" for k, (alts, *rest) in enumerate(rows)
    )
    head = HEADER.replace("#CHROM", '##FORMAT=<ID=GT,Number=1,Type=String,Description="G">\n#CHROM')
    head = head.replace("#CHROM", '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="D">\n#CHROM')
    return write(tmp_path / "s.vcf", body, head[:-1] + "\tFORMAT\t" + "\t".join(names) + "\n")


def test_a_sample_is_read_with_its_genotype(tmp_path):
    rows = [("C", "GT:DP", "0/1:5", "1|1:."), ("C,G", "GT", "2|0", "."), ("C", "DP", "4", "."), (".", "GT", "0", "./.")]
    path = with_samples(tmp_path, rows)
    assert [record.genotype for record in read_records(path, "s1")] == ["0/1", "2|0", ".", "0"]
    assert [record.genotype for record in read_records(path, "s2")] == ["1|1", ".", ".", "./."]
    assert [record.genotype for record in read_records(path)] == [None] * 4
    packed = to_bcf(path)
    assert [record.genotype for record in read_records(packed, "s1")] == ["0/1", "2|0", ".", "0"]
    assert [record[:5] for record in read_records(packed, "s2")] == [record[:5] for record in read_records(path)]
    assert [record[:5] for record in read_records(packed)] == [record[:5] for record in read_records(path)]


@pytest.mark.parametrize("as_bcf", [False, True])
def test_a_sample_that_is_not_there_is_told(tmp_path, as_bcf):
    path = with_samples(tmp_path, [("C", "GT", "0/1", "1/1")])
    path = to_bcf(path) if as_bcf else path
    with pytest.raises(InputError, match=r"no sample 'S3'; .*s1"):
        next(read_records(path, "S3"))
    bare = write(tmp_path / "bare.vcf", many(1))
    bare = to_bcf(bare) if as_bcf else bare
    with pytest.raises(InputError, match=r"no sample 's1'; the file has no samples"):
        next(read_records(bare, "s1"))
    if not as_bcf:  # which cannot have two
        path.write_text(path.read_text().replace("s1\ts2", "s1\ts1"))
        with pytest.raises(InputError, match=r"has 2 samples 's1'; rename all but one"):
            next(read_records(path, "s1"))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (("C", "GT", "0/1", "x"), r"line 10 has the genotype 'x'; wanted numbers of alleles"),
        (("C", "GT", "0/1", "0/2"), r"line 10 has the genotype '0/2', but 1 alternate alleles"),
        (("C", "DP:GT", "5:0/1", "5:0/1"), r"line 10 has the FORMAT DP:GT, where GT must come first"),
    ],
)
def test_a_genotype_that_is_none_is_told(tmp_path, row, match):
    path = with_samples(tmp_path, [("C", "GT", "0/1", "1/1"), row])
    with pytest.raises(InputError, match=match + ".*the last good record is c1:5 A"):
        list(read_records(path, "s2"))
    assert len(list(read_records(path))) == 2
