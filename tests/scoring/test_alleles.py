import os
from pathlib import Path

import numpy as np
import pysam.bcftools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import decode, encode
from cisray.genome.variants import Variant, read_variants
from cisray.scoring.alleles import (
    SCORED,
    Edit,
    Flag,
    PatchedReference,
    Status,
    classify,
    normalise,
    swapped,
    trim,
)

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
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


class Typed:
    """A genome of one contig that a test types."""

    def __init__(self, text):
        self.text = text
        self.contig_lengths = {"chr1": len(text)}

    def bases(self, contig, start, end):
        assert contig == "chr1"
        return "".join(self.text[at].upper() if 0 <= at < len(self.text) else "N" for at in range(start, end))

    def codes(self, contig, start, end):
        return encode(self.bases(contig, start, end))


def applied(text, edit):
    """Edit a whole contig as plain text."""
    assert 0 <= edit.start <= edit.start + edit.removed_bp <= len(text)
    return text[: edit.start] + decode(edit.inserted) + text[edit.start + edit.removed_bp :]


def spelled(normal):
    return normal.norm_pos, normal.norm_ref, normal.norm_alt


@pytest.mark.parametrize(
    ("text", "pos", "ref", "alt", "expected"),
    [
        ("GGGCACACACAGGG", 8, "CAC", "C", (3, "GCA", "G")),  # the example of Tan et al., figure 1
        ("GGGCACACACAGGG", 5, "ACA", "A", (3, "GCA", "G")),
        ("GGGCACACACAGGG", 3, "GCACA", "GCA", (3, "GCA", "G")),
        ("GGGCACACACAGGG", 10, "C", "CAC", (3, "G", "GCA")),
        ("GGGCACACACAGGG", 2, "GGCA", "GG", (3, "GCA", "G")),
        ("GGGCACACACAGGG", 3, "gca", "g", (3, "GCA", "G")),
        ("AAAAC", 3, "AA", "A", (1, "AA", "A")),  # at the contig's start, with the base after it
        ("AAAAC", 4, "A", "AA", (1, "A", "AA")),
        ("AAAAC", 1, "AAAAC", "C", (1, "AAAAC", "C")),
        ("CACAC", 4, "AC", "A", (4, "AC", "A")),
        ("CACAC", 3, "CAC", "C", (1, "CAC", "C")),
        ("ACGT", 2, "C", "T", (2, "C", "T")),
        ("ACGT", 1, "ACG", "ATG", (2, "C", "T")),
        ("ACGT", 1, "ACGT", "ATTT", (2, "CG", "TT")),
        ("ACGT", 2, "CG", "TTT", (2, "CG", "TTT")),
        ("ACNAAA", 5, "AA", "A", (3, "NA", "N")),  # N is like no base
        ("ACGT", 2, "CG", "CG", (2, "C", "C")),
    ],
)
def test_normal_forms_by_eye(text, pos, ref, alt, expected):
    assert text[pos - 1 : pos - 1 + len(ref)] == ref.upper()
    assert spelled(normalise(variant(pos, ref, alt), "chr1", Typed(text))) == expected


def test_an_edit_tells_where_it_is(reference):
    insertion = normalise(variant(16, "A", "AG"), "chr1", reference)
    assert spelled(insertion) == (16, "A", "AG")
    assert (insertion.edit.start, insertion.edit.removed_bp, decode(insertion.edit.inserted)) == (16, 0, "G")
    deletion = normalise(variant(15, "CAT", "C"), "soft", reference)
    assert spelled(deletion) == (15, "CAT", "C")
    assert (deletion.edit.start, deletion.edit.removed_bp, len(deletion.edit.inserted)) == (15, 2, 0)
    assert Edit(3, 1, encode("AC")).key() == Edit(3, 1, encode("ac")).key() != Edit(3, 1, encode("CA")).key()
    nothing = normalise(variant(16, "ATG", "atg"), "chr1", reference)
    assert (*spelled(nothing), *nothing.edit.key()) == (16, "A", "A", 15, 0, b"")


@st.composite
def text_and_variant(draw):
    # few letters and repeats, so that indels have many spellings
    unit = draw(st.text("ACG", min_size=1, max_size=4))
    text = draw(st.text("ACGTN", max_size=5)) + unit * draw(st.integers(1, 40)) + draw(st.text("ACGT", max_size=5))
    start = draw(st.integers(0, len(text) - 1))
    ref = text[start : draw(st.integers(start + 1, min(start + 8, len(text))))]
    alt = draw(st.one_of(st.text("ACGT", min_size=1, max_size=6), st.just(ref + unit), st.just(ref[:1])))
    return text, variant(start + 1, ref, alt)


def all_spellings(text, changed):
    """Write every indel that makes the same contig, with the base before it; by trying all positions."""
    size = len(changed) - len(text)
    found = []
    for at in range(1, len(text) + 1):
        if size > 0 and text[:at] + changed[at : at + size] + text[at:] == changed:
            found.append((at, text[at - 1], changed[at - 1 : at + size]))
        if size < 0 and text[:at] + text[at - size :] == changed and at - size <= len(text):
            found.append((at, text[at - 1 : at - size], text[at - 1]))
    return found


@given(text_and_variant())
def test_the_normal_form_is_the_same_edit_the_leftmost_and_the_only_one(drawn):
    text, changed = drawn
    genome = Typed(text)
    normal = normalise(changed, "chr1", genome)
    start = changed.pos - 1
    expected = text[:start] + changed.alt + text[start + len(changed.ref) :]
    assert applied(text, normal.edit) == expected
    first = normal.norm_pos - 1
    assert text[first : first + len(normal.norm_ref)] == normal.norm_ref
    assert text[:first] + normal.norm_alt + text[first + len(normal.norm_ref) :] == expected
    if "N" in normal.norm_ref:
        return
    again = normalise(variant(normal.norm_pos, normal.norm_ref, normal.norm_alt), "chr1", genome)
    assert (*spelled(again), again.edit.key()) == (*spelled(normal), normal.edit.key())
    for pos, ref, alt in (
        all_spellings(text, expected) if normal.edit.removed_bp * len(normal.edit.inserted) == 0 else []
    ):
        other = normalise(variant(pos, ref, alt), "chr1", genome)
        assert (*spelled(other), other.edit.key()) == (*spelled(normal), normal.edit.key())
        assert pos >= normal.norm_pos


def test_an_indel_moves_through_a_long_repeat():
    genome = Typed("G" + "CAT" * 50_000)
    normal = normalise(variant(150_001, "T", "TCAT"), "chr1", genome)
    assert spelled(normal) == (1, "G", "GCAT")
    normal = normalise(variant(149_999, "CAT", "CATCA"), "chr1", genome)
    assert spelled(normal) == (150_001, "T", "TCA")


def with_bcftools(fasta, records, folder):
    """Normalise with bcftools: a second, independent computation."""
    contigs = {contig for contig, *_ in records}
    with pysam.FastaFile(str(fasta)) as file:
        lengths = {name: file.get_reference_length(name) for name in contigs}
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={name},length={n}>\n" for name, n in lengths.items())
    lines = [f"{contig}\t{pos}\t{n}\t{ref}\t{alt}\t.\t.\t.\n" for n, (contig, pos, ref, alt) in enumerate(records)]
    path = folder / "records.vcf"
    path.write_text(header + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    out = folder / "normal.vcf"
    pysam.bcftools.norm("-f", str(fasta), "-o", str(out), "-O", "v", str(path), catch_stdout=False)
    rows = [line.split("\t")[:5] for line in out.read_text().splitlines() if not line.startswith("#")]
    return [(int(pos), ref, alt) for _, pos, _, ref, alt in sorted(rows, key=lambda row: int(row[2]))]


def test_normal_forms_are_those_of_bcftools(tmp_path):
    rng = np.random.default_rng(5)
    text = "".join("ACGT"[k] * n for k, n in zip(rng.integers(0, 4, 300), rng.integers(1, 9, 300), strict=True))
    text += "ACAC" * 60 + "GATTACA" * 20
    fasta = tmp_path / "genome.fa"
    fasta.write_text(f">chr1\n{text}\n")
    records = []
    for start in rng.integers(1, len(text) - 12, 1500):
        ref = text[start : start + rng.integers(1, 9)]
        alt = text[start] if rng.random() < 0.5 else text[start] + text[start + 1 : start + 1 + rng.integers(1, 9)] * 2
        if ref != alt:
            records.append(("chr1", int(start) + 1, ref, alt))
    genome = Typed(text)
    found = [spelled(normalise(variant(pos, ref, alt), "chr1", genome)) for _, pos, ref, alt in records]
    assert found == with_bcftools(fasta, records, tmp_path)
    assert sum(mine != record[1:] for mine, record in zip(found, records, strict=True)) > 500


@needs_data
def test_normal_forms_of_real_variants_are_those_of_bcftools(tmp_path):
    fasta = tmp_path / "z.fa"
    fasta.write_bytes((Path(DATA) / "vcf/z.fa").read_bytes())
    reference = Reference(fasta, cache_dir=tmp_path / "cache")
    rows = list(read_variants(Path(DATA) / "vcf/z.vcf.gz"))
    kept = [row for row in rows if classify(row, row.contig, reference, max_allele_bp=1000) is Status.OK]
    assert len(kept) > 29_000
    found = [spelled(normalise(row, row.contig, reference)) for row in kept]
    assert found == with_bcftools(fasta, [(row.contig, row.pos, row.ref, row.alt) for row in kept], tmp_path)


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "policy", "status"),
    [
        (1, "C", "A", "skip", Status.REF_MISMATCH),
        (1, "C", "A", "flip", Status.REF_FLIPPED),
        (1, "c", "a", "flip", Status.REF_FLIPPED),
        (1, "C", "A", "use_vcf", Status.OK),
        (1, "C", "G", "flip", Status.REF_MISMATCH),
        (1, "C", "G", "use_vcf", Status.OK),
        (1, "ACC", "ACG", "flip", Status.REF_FLIPPED),
        (29, "GC", "GA", "flip", Status.REF_FLIPPED),
        (29, "GC", "GAA", "flip", Status.REF_MISMATCH),  # ALT would end beyond the contig
        (5, "TC", "T", "flip", Status.REF_FLIPPED),
        (11, "A", "C", "flip", Status.REF_MISMATCH),  # the genome has N there
        (11, "A", "C", "use_vcf", Status.OK),
        (1, "A", "C", "flip", Status.OK),
        (1, "A", "C", "error", Status.OK),
        (31, "A", "C", "error", Status.OUT_OF_CONTIG),
        (1, "N", "C", "error", Status.NON_ACGT),
    ],
)
def test_what_a_mismatch_becomes(reference, pos, ref, alt, policy, status):
    assert classify(variant(pos, ref, alt), "chr1", reference, max_allele_bp=5, ref_mismatch=policy) is status


def test_a_mismatch_can_be_an_error(reference):
    with pytest.raises(
        InputError, match=r"record 1 of the variants, 1:1, has the REF CG, but the genome has AC at chr1:1; .*\"flip\""
    ):
        classify(variant(1, "CG", "A"), "chr1", reference, max_allele_bp=5, ref_mismatch="error")


def test_only_two_statuses_have_scores():
    assert {Status.OK, Status.REF_FLIPPED} == SCORED
    assert len(set(Flag)) == 7
    assert swapped(variant(3, "A", "CT")) == variant(3, "CT", "A")


@given(start=st.integers(0, 26), written=st.text("ACGT", min_size=1, max_size=4), data=st.data())
def test_a_patched_reference_is_the_contig_with_other_bases(reference, start, written, data):
    patched = PatchedReference(reference, "chr1", start, written.lower())
    assert patched.written == (start, written)
    padded = "N" * 20 + CONTIG[:start] + written + CONTIG[start + len(written) :] + "N" * 20
    first = data.draw(st.integers(-20, 50))
    last = data.draw(st.integers(first, 50))
    assert patched.bases("chr1", first, last) == padded[first + 20 : last + 20]
    assert decode(patched.codes("chr1", first, last)) == padded[first + 20 : last + 20]
    assert patched.bases("soft", first, last) == reference.bases("soft", first, last)
    np.testing.assert_array_equal(patched.codes("soft", first, last), reference.codes("soft", first, last))
    assert reference.bases("chr1", 0, 30) == CONTIG  # nothing of the genome itself is changed
