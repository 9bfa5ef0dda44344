import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import decode
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Flag, Status, classify, trim, window_pair

CONTIG = "ACGTTGCAAGNNTCCATGACGATTACAGGA"  # 30 bp, N at 10 and 11
SOFT_MASKED = CONTIG.lower()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "genome.fa").write_text(f">chr1\n{CONTIG}\n>soft\n{SOFT_MASKED}\n")
    return Reference(folder / "genome.fa", cache_dir=folder / "cache")


def variant(pos, ref, alt):
    return Variant(record_index=0, allele_index=0, contig="1", pos=pos, id=".", ref=ref, alt=alt)


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "status"),
    [
        (1, "A", "C", Status.OK),
        (1, "a", "c", Status.OK),
        (30, "A", "T", Status.OK),
        (5, "TGCA", "T", Status.OK),
        (5, "T", "T", Status.OK),
        (1, "C", "A", Status.REF_MISMATCH),
        (1, "ACGA", "A", Status.REF_MISMATCH),  # only the last base is wrong
        (10, "GA", "G", Status.REF_MISMATCH),  # the genome has N there
        (0, "N", "A", Status.NON_ACGT),
        (0, "A", "C", Status.OUT_OF_CONTIG),
        (31, "A", "C", Status.OUT_OF_CONTIG),
        (30, "AC", "A", Status.OUT_OF_CONTIG),
        (11, "N", "A", Status.NON_ACGT),
        (1, "A", "R", Status.NON_ACGT),
        (1, "", "A", Status.NON_ACGT),
        (1, "A", "<DEL>", Status.SYMBOLIC),
        (1, "A", "<*>", Status.SYMBOLIC),
        (1, "A", "A]chr2:5]", Status.SYMBOLIC),
        (1, "A", "[chr2:5[A", Status.SYMBOLIC),
        (1, "A", "A.", Status.SYMBOLIC),
        (1, "A", ".A", Status.SYMBOLIC),
        (1, "A", "*", Status.STAR),
        (1, "A", ".", Status.MISSING_ALT),
        (1, "A", "", Status.MISSING_ALT),
        (1, "ACGTTG", "A", Status.TOO_LONG),
        (1, "A", "ACCCCC", Status.TOO_LONG),
    ],
)
def test_classify(reference, pos, ref, alt, status):
    assert classify(variant(pos, ref, alt), "chr1", reference, max_allele_bp=5) is status


def test_classify_reads_soft_masked_genomes(reference):
    assert classify(variant(1, "ACG", "A"), "soft", reference, max_allele_bp=5) is Status.OK


@pytest.mark.parametrize("contig", [None, "chr2"])
def test_a_contig_that_is_not_there_comes_before_everything(reference, contig):
    assert classify(variant(1, "A", "<DEL>"), contig, reference, max_allele_bp=5) is Status.CONTIG_UNKNOWN


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [
        ("A", "C", (0, "A", "C")),
        ("GAT", "GCT", (1, "A", "C")),
        ("CA", "CAA", (1, "", "A")),
        ("CAA", "CA", (1, "A", "")),
        ("ACGT", "TCGA", (0, "ACGT", "TCGA")),
        ("ATTG", "ACG", (1, "TT", "C")),
        ("AC", "AC", (0, "", "")),
    ],
)
def test_trim(ref, alt, expected):
    assert trim(ref, alt) == expected


alleles = st.text("ACGT", min_size=1, max_size=6)


@given(ref=alleles, alt=alleles)
def test_trim_keeps_the_edit_and_leaves_nothing_shared(ref, alt):
    offset, replaced, inserted = trim(ref, alt)
    assert ref[:offset] + inserted + ref[offset + len(replaced) :] == alt
    assert ref[offset : offset + len(replaced)] == replaced
    assert not (replaced and inserted) or (replaced[0] != inserted[0] and replaced[-1] != inserted[-1])


# position 15 is the C at index 14: a window of 8 has four bases before it, and four from it on
@pytest.mark.parametrize(
    ("ref", "alt", "alternate", "flags"),
    [
        ("C", "G", "NNTCGATG", Flag.HAS_N),
        ("CATG", "CTTG", "NNTCCTTG", Flag.HAS_N),
        ("CATG", "GTAC", "NNTCGTAC", Flag.HAS_N),
        ("C", "CGG", "NNTCCGGA", Flag.HAS_N | Flag.INDEL),
        ("CAT", "C", "NNTCCGAC", Flag.HAS_N | Flag.INDEL),
        ("CAT", "GG", "NNTCGGGA", Flag.HAS_N | Flag.INDEL),
        ("c", "c", "NNTCCATG", Flag.HAS_N),
    ],
)
@pytest.mark.parametrize("contig", ["chr1", "soft"])
def test_window_pair_by_eye(reference, contig, ref, alt, alternate, flags):
    pair = window_pair(variant(15, ref, alt), contig, reference, window_bp=8)
    assert pair.window_start == 10
    assert decode(pair.reference_codes) == "NNTCCATG"
    assert decode(pair.alternate_codes) == alternate
    assert pair.flags == flags


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "window_bp", "expected"),
    [
        (1, "A", "C", 6, (-3, "NNNACG", "NNNCCG", Flag.EDGE_PADDED | Flag.HAS_N)),
        (30, "A", "C", 6, (26, "AGGANN", "AGGCNN", Flag.EDGE_PADDED | Flag.HAS_N)),
        (20, "C", "T", 5, (17, "GACGA", "GATGA", Flag(0))),
        # the reference fits into the contig, what the deletion draws in does not
        (28, "GG", "G", 6, (24, "ACAGGA", "ACAGAN", Flag.EDGE_PADDED | Flag.HAS_N | Flag.INDEL)),
        (20, "C", "T", 1, (19, "C", "T", Flag(0))),
    ],
)
def test_window_pair_at_the_edges(reference, pos, ref, alt, window_bp, expected):
    pair = window_pair(variant(pos, ref, alt), "chr1", reference, window_bp=window_bp)
    found = (pair.window_start, decode(pair.reference_codes), decode(pair.alternate_codes), pair.flags)
    assert found == expected


@given(data=st.data(), start=st.integers(12, 29), alt=alleles, window_bp=st.integers(12, 60))
def test_window_pair_equals_editing_the_whole_contig(reference, data, start, alt, window_bp):
    ref = CONTIG[start : data.draw(st.integers(start + 1, min(start + 6, 30)))]
    changed = variant(start + 1, ref, alt)
    assert classify(changed, "chr1", reference, max_allele_bp=6) is Status.OK
    pair = window_pair(changed, "chr1", reference, window_bp=window_bp)

    padding = "N" * 100
    edited = padding + CONTIG[:start] + alt + CONTIG[start + len(ref) :] + padding
    first = 100 + start - window_bp // 2
    assert decode(pair.reference_codes) == (padding + CONTIG + padding)[first : first + window_bp]
    assert decode(pair.alternate_codes) == edited[first : first + window_bp]
    assert pair.window_start == first - 100
    assert (Flag.INDEL in pair.flags) == (len(ref) != len(alt))
    both = decode(pair.reference_codes) + decode(pair.alternate_codes)
    assert (Flag.HAS_N in pair.flags) == ("N" in both)


def test_window_pair_refuses_an_allele_beyond_its_right_half(reference):
    pair = window_pair(variant(15, "C", "GGGG"), "chr1", reference, window_bp=8)
    assert decode(pair.alternate_codes) == "NNTCGGGG"
    with pytest.raises(InputError, match=r"chr1:15 has an allele of 5 bp.* lower max_allele_bp to 4"):
        window_pair(variant(15, "C", "GGGGG"), "chr1", reference, window_bp=8)
