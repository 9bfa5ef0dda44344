import os
from pathlib import Path

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.genome.variant_selection import NOT_IN_SAMPLE, OUTSIDE_REGIONS, SubsetSpec, contigs_of, select_variants
from cisray.genome.variants import Variant, read_variants

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
LENGTHS = {"chr1": 1000, "chr2": 500, "chrM": 90}
HEADER = "##fileformat=VCFv4.2\n##contig=<ID=1,length=1000>\n##contig=<ID=MT,length=90>\n"
HEADER += '##FORMAT=<ID=GT,Number=1,Type=String,Description="G">\n'
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


def write(path, records, samples=()):
    head = COLUMNS + ("\tFORMAT\t" + "\t".join(samples) if samples else "")
    lines = []
    for contig, pos, ref, alts, *genotypes in records:
        rest = "\tGT\t" + "\t".join(genotypes) if samples else ""
        lines.append(f"{contig}\t{pos}\t.\t{ref}\t{alts}\t.\t.\t.{rest}\n")
    path.write_text(HEADER + head + "\n" + "".join(lines))
    return path


def selected(path, subset=None, **options):
    rows = select_variants(path, subset or SubsetSpec(), contig_lengths=LENGTHS, **options)
    return list(rows), dict(rows.left_out)


RECORDS = [
    ("1", 10, "A", "C"),
    ("MT", 5, "A", "C,G"),
    ("1", 98, "ACG", "A"),
    ("other", 1, "A", "C"),
    ("1", 200, "A", "C,G"),
]


def test_without_a_subset_all_rows_are_given(tmp_path):
    path = write(tmp_path / "v.vcf", RECORDS)
    assert selected(path) == (list(read_variants(path)), {})
    assert contigs_of(path) == {"1": 1000, "MT": 90}


def test_a_table_is_read_like_a_vcf(tmp_path):
    vcf, table = write(tmp_path / "v.vcf", RECORDS), tmp_path / "v.tsv"
    table.write_text("chrom\tpos\tref\talt\n" + "".join("\t".join(map(str, one)) + "\n" for one in RECORDS))
    assert contigs_of(table) == {}
    for subset in (SubsetSpec(), SubsetSpec(regions=("chr1:90-100",))):
        assert selected(table, subset) == selected(vcf, subset)


@pytest.mark.parametrize(
    ("regions", "indices", "outside"),
    [
        (("chr1",), [0, 2, 4, 4], 3),
        (("chr1:9-10",), [0], 6),
        (("chr1:10-11",), [], 7),
        (("chr1:0-9",), [], 7),
        (("chr1:99-100",), [2], 6),  # its last base
        (("chr1:100-101",), [], 7),
        (("chr1:97-98",), [2], 6),
        (("chrM",), [1, 1], 5),
        (("chrM", "chr1:199-200", "chr1:150-200"), [1, 1, 4, 4], 3),
        (("chr2",), [], 7),
    ],
)
def test_regions_are_of_the_genome_and_touch_ref(tmp_path, regions, indices, outside):
    path = write(tmp_path / "v.vcf", RECORDS)
    rows, left_out = selected(path, SubsetSpec(regions=regions))
    assert [row.record_index for row in rows] == indices
    assert left_out == ({OUTSIDE_REGIONS: outside} if outside else {})
    assert set(rows) <= set(read_variants(path))


def test_a_bed_adds_its_intervals(tmp_path):
    path = write(tmp_path / "v.vcf", RECORDS)
    (tmp_path / "r.bed").write_text("1\t9\t10\nMT\t0\t4\nchrUn\t0\t9\n1\t99\t150\n")
    rows, left_out = selected(path, SubsetSpec(regions_bed="r.bed", regions=("chrM:4-5",)), data_dir=str(tmp_path))
    assert [row.record_index for row in rows] == [0, 1, 1, 2]
    assert left_out == {OUTSIDE_REGIONS: 3}
    (tmp_path / "r.bed").write_text("chrUn\t0\t9\n")
    with pytest.raises(InputError, match=r"r\.bed: none of its contigs is in the genome \(chrUn\); give a BED file"):
        selected(path, SubsetSpec(regions_bed="r.bed"), data_dir=str(tmp_path))


@pytest.mark.parametrize("as_bcf", [False, True])
def test_a_sample_chooses_the_alleles_that_it_carries(tmp_path, as_bcf):
    records = [
        ("1", 1, "A", "C", "0/1", "0/0"),
        ("1", 2, "A", "C,G", "0|2", "1|2"),
        ("1", 3, "A", "C", "./.", "1"),
        ("1", 4, "A", ".", "0/0", "0/0"),
        ("1", 5, "A", "C,G,T", "3/1", "./2"),
    ]
    path = write(tmp_path / "v.vcf", records, ("s1", "s2"))
    if as_bcf:
        with (
            pysam.VariantFile(str(path)) as file,
            pysam.VariantFile(str(tmp_path / "v.bcf"), "wb", header=file.header) as out,
        ):
            for record in file:
                out.write(record)
        path = tmp_path / "v.bcf"
    rows, left_out = selected(path, SubsetSpec(sample="s1"))
    assert [(row.pos, row.allele_index, row.alt) for row in rows] == [
        (1, 0, "C"),
        (2, 1, "G"),
        (5, 0, "C"),
        (5, 2, "T"),
    ]
    assert left_out == {NOT_IN_SAMPLE: 4}
    rows, left_out = selected(path, SubsetSpec(sample="s2", regions=("chr1:1-3",)))
    assert [(row.record_index, row.allele_index) for row in rows] == [(1, 0), (1, 1), (2, 0)]
    assert left_out == {OUTSIDE_REGIONS: 5}


def test_a_second_pass_gives_and_counts_the_same(tmp_path):
    rows = select_variants(write(tmp_path / "v.vcf", RECORDS), SubsetSpec(regions=("chrM",)), contig_lengths=LENGTHS)
    assert list(rows) == list(rows)
    assert rows.left_out == {OUTSIDE_REGIONS: 5}


@pytest.mark.parametrize(
    ("subset", "match"),
    [
        ({"regions": ("chr3",)}, "region 'chr3': no such contig"),
        ({"regions": ("chr1:5-5",)}, "holds no base"),
        ({"sample": "s9"}, r"v\.vcf: no sample 's9'; the file has no samples"),
    ],
)
def test_a_subset_that_cannot_be_is_told(tmp_path, subset, match):
    path = write(tmp_path / "v.vcf", RECORDS)
    with pytest.raises(InputError, match=match):
        selected(path, SubsetSpec(**subset))


@pytest.mark.parametrize("key", ["sample", "regions_bed"])
def test_an_empty_name_is_told(key):
    with pytest.raises(InputError, match=r"job: .*sample or regions_bed is empty; give a name, or leave it out"):
        check_settings({key: ""}, SubsetSpec, source="job")


def test_a_table_has_no_samples_and_a_missing_file_no_rows(tmp_path):
    (tmp_path / "v.tsv").write_text("chrom\tpos\tref\talt\n")
    with pytest.raises(InputError, match=r"v\.tsv: is a table, which has no samples; leave sample='s1' out"):
        selected(tmp_path / "v.tsv", SubsetSpec(sample="s1"))
    with pytest.raises(InputError, match=r"none: no such file, but a VCF, BCF, TSV or Parquet file of variants"):
        selected(tmp_path / "none")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "MT", "chr2"]), st.integers(0, 95), st.text("ACGT", min_size=1, max_size=5)),
        max_size=25,
    ),
    st.lists(st.tuples(st.sampled_from(["chr1", "chrM", "chr2"]), st.integers(0, 80), st.integers(1, 10)), max_size=5),
)
def test_regions_choose_what_overlaps_base_by_base(tmp_path, records, regions):
    path = write(tmp_path / "v.vcf", [(contig, pos, ref, "T,C") for contig, pos, ref in records])
    names = {"1": "chr1", "MT": "chrM", "chr2": "chr2"}
    wanted = {(contig, base) for contig, start, width in regions for base in range(start, start + width)}
    expected = [
        Variant(index, allele, contig, pos, ".", ref, alt)
        for index, (contig, pos, ref) in enumerate(records)
        for allele, alt in enumerate("TC")
        if not regions or wanted & {(names[contig], pos - 1 + k) for k in range(len(ref))}
    ]
    subset = SubsetSpec(regions=tuple(f"{contig}:{start}-{start + width}" for contig, start, width in regions))
    rows, left_out = selected(path, subset)
    assert rows == expected
    assert sum(left_out.values()) + len(rows) == 2 * len(records)


@needs_data
def test_a_region_of_a_real_file_is_what_pysam_fetches(tmp_path):
    path = Path(DATA) / "vcf/z.vcf.gz"
    before = pysam.set_verbosity(0)
    with pysam.VariantFile(str(path)) as file:
        expected = [r.pos for r in file if r.pos - 1 < 520_000 and r.pos - 1 + len(r.ref) > 500_000 for _ in r.alts]
    pysam.set_verbosity(before)
    rows = select_variants(path, SubsetSpec(regions=("z:500,000-520,000",)), contig_lengths={"z": 1_001_227})
    assert [row.pos for row in rows] == expected
    assert len(expected) > 100
    assert rows.left_out[OUTSIDE_REGIONS] == 29_144 - len(expected)
