import gzip
import hashlib
import itertools
import os
import pickle
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pysam
import pysam.bcftools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.genotypes import Fate
from cisray.genome.haplotypes import Haplotype, HaplotypeSpec
from cisray.genome.reference import Reference
from cisray.genome.sequence import decode

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
HEADER = "##fileformat=VCFv4.2\n##contig=<ID=c1>\n##contig=<ID=c2>\n##FILTER=<ID=q10,Description=.>\n"
HEADER += '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n##contig=<ID=other>\n'
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
GENOME = {"c1": "ACGTACGTACGTACGTACGT", "c2": "TTTTTTTTTT"}
GENOTYPES = (
    "0|1",
    "1|0",
    "1|2",
    "2|1",
    "1|1",
    "1/1",
    "1",
    "2",
    "0",
    ".",
    "./.",
    ".|1",
    "./1",
    "0/1",
    "1/2",
    "2/1/0",
    "0|1|2",
)
SYMBOLS = ("*", "<DEL>", "G]c1:1]", ".G")


def write_genome(folder, contigs=GENOME):
    folder.mkdir(exist_ok=True)
    (folder / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return Reference(folder / "g.fa", folder / "cache")


def write_vcf(folder, rows, name="v.vcf", sample="S"):
    """Rows of contig, pos, ref, alts and genotype, and a filter if it is not PASS."""
    lines = [HEADER + COLUMNS + (f"\tFORMAT\t{sample}" if sample else "") + "\n"]
    for contig, pos, ref, alts, genotype, *rest in rows:
        ends = f"\tGT\t{genotype}" if sample else ""
        lines.append(f"{contig}\t{pos}\t.\t{ref}\t{alts}\t.\t{(*rest, 'PASS')[0]}\t.{ends}\n")
    (folder / name).write_text("".join(lines))
    return name


def make(folder, rows, contigs=GENOME, **spec):
    folder.mkdir(exist_ok=True)
    sample = spec.setdefault("sample", "S")
    return Haplotype(
        write_genome(folder, contigs),
        HaplotypeSpec(variants=write_vcf(folder, rows, sample=sample), **spec),
        str(folder),
    )


def text(haplotype, contig, start, end):
    return decode(haplotype.codes(contig, start, end))


def counted(haplotype):
    labels = {fate.label: fate for fate in Fate}
    return {labels[label]: count for label, count in haplotype.counts.items() if count}


# The truth, by editing strings in plain Python, record by record.


def allele_of(genotype, haplotype, unphased):
    alleles = genotype.replace("|", "/").split("/")
    if len(set(alleles)) == 1:
        return alleles[0], Fate.APPLIED
    if "/" not in genotype:
        return alleles[haplotype - 1], Fate.APPLIED
    if "." in alleles:
        return ".", None
    if unphased == "reference":
        return "0", Fate.UNPHASED
    return next(one for one in alleles if one != "0"), Fate.APPLIED_WITHOUT_PHASE


def fate_of(row, contigs, spec):
    """Return a record's fate, and its edit if it has one: start, end, and what is written there."""
    contig, pos, ref, alts, genotype, passed = row
    allele, fate = allele_of(genotype, spec.haplotype, spec.unphased)
    if contig not in contigs:
        return Fate.CONTIG_NOT_IN_GENOME, None
    if passed == "q10" and spec.failed == "skip":
        return Fate.FAILED_FILTER, None
    if fate is Fate.UNPHASED:
        return fate, None
    if allele in (".", "0"):
        return Fate.WITHOUT_GENOTYPE if allele == "." else Fate.SAME_AS_REFERENCE, None
    alt, ref = alts.split(",")[int(allele) - 1].upper(), ref.upper()
    if alt in map(str.upper, SYMBOLS) or alt.startswith("<"):
        return Fate.SYMBOL_OR_STAR, None
    if set(ref + alt) - set("ACGT"):
        return Fate.OTHER_LETTERS, None
    if "N" in contigs[contig][pos - 1 : pos - 1 + len(ref)]:
        return Fate.GENOME_UNKNOWN, None
    if ref == alt:
        return Fate.SAME_AS_REFERENCE, None
    if len(ref) != len(alt) and spec.indels == "skip":
        return Fate.INDEL, None
    start = pos - 1
    while ref and alt and ref[0] == alt[0]:  # the base before an indel is not replaced
        start, ref, alt = start + 1, ref[1:], alt[1:]
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return fate, (start, start + len(ref), alt)


def meet(one, other):
    """Tell whether two edits replace one base, insert at one place, or one inserts inside of the other."""
    if one[:2] == other[:2]:
        return True
    if one[0] == one[1] or other[0] == other[1]:
        point, (start, end) = (one[0], other[:2]) if one[0] == one[1] else (other[0], one[:2])
        return start < point < end
    return bool(set(range(*one[:2])) & set(range(*other[:2])))


def truth(rows, contigs, spec):
    edits, counts = {contig: [] for contig in contigs}, Counter()
    for row in rows:
        fate, edit = fate_of(row, contigs, spec)
        if edit and any(meet(edit, other) for other in edits[row[0]][-20:]):
            fate = Fate.OVERLAP
        elif edit:
            edits[row[0]].append(edit)
        counts[fate] += 1
    return edits, dict(counts)


def edited(bases, edits):
    for start, end, alt in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        bases = bases[:start] + alt + bases[end:]
    return bases


def expected(bases, edits, start, end):
    """Return an interval of the edited string, as wide as it is, around where its centre base has gone."""
    whole = edited(bases, edits)
    center = start + (end - start) // 2
    inside = [edit for edit in edits if edit[0] <= center < edit[1]]
    if inside:
        (edit,) = inside
        at = len(edited(bases[: edit[0]], [other for other in edits if other[1] <= edit[0] and other != edit]))
        at += min(center - edit[0], len(edit[2]))
    elif 0 <= center < len(bases):
        at = len(edited(bases[:center], [edit for edit in edits if edit[1] <= center]))
    else:
        at = center if center < 0 else center - len(bases) + len(whole)
    first = at - (end - start) // 2
    return ("N" * 200 + whole + "N" * 200)[first + 200 : first + 200 + end - start]


@st.composite
def samples(draw):
    contigs = {name: draw(st.text("ACGT" * 4 + "N", min_size=1, max_size=30)) for name in ("c1", "c2")}
    first = {base: base for base in "ACGT"} | {"N": draw(st.sampled_from("NA"))}
    rows = [("c1", 1, first[contigs["c1"][0]], "T", "0|0", ".")]
    for _ in range(draw(st.integers(0, 9))):
        contig = draw(st.sampled_from(["c1", "c1", "c1", "c2", "other"]))
        bases = contigs.get(contig, "ACGTACGT")
        start = draw(st.integers(0, len(bases) - 1))
        ref = "".join(first[base] for base in bases[start : start + draw(st.sampled_from([1, 1, 2, 4]))])
        allele = st.one_of(
            st.text("ACGT", min_size=1, max_size=1), st.text("ACGTg", min_size=1, max_size=4), st.just(ref + "A")
        )
        alts = draw(
            st.lists(st.one_of(allele, allele, allele, st.sampled_from([*SYMBOLS, "AN"])), min_size=2, max_size=2)
        )
        genotype = draw(st.sampled_from(GENOTYPES))
        ref = ref.lower() if draw(st.booleans()) else ref
        rows.append(
            (contig, start + 1, ref, ",".join(alts), genotype, draw(st.sampled_from(["PASS", "PASS", ".", "q10"])))
        )
    spec = {
        "haplotype": draw(st.sampled_from([1, 2])),
        "indels": draw(st.sampled_from(["apply", "apply", "skip"])),
        "unphased": draw(st.sampled_from(["alternate", "reference"])),
        "failed": draw(st.sampled_from(["skip", "apply"])),
    }
    return contigs, rows, spec


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples(), st.lists(st.tuples(st.integers(-20, 45), st.integers(0, 60)), min_size=4, max_size=4))
def test_any_window_is_what_editing_a_string_gives(tmp_path, sample, windows):
    contigs, rows, spec = sample
    haplotype = make(tmp_path / hashlib.sha256(repr(sample).encode()).hexdigest(), rows, contigs, **spec)
    edits, counts = truth(rows, contigs, haplotype.spec)
    assert counted(haplotype) == counts
    for contig, bases in contigs.items():
        for start, width in windows:
            assert text(haplotype, contig, start, start + width) == expected(bases, edits[contig], start, start + width)
        for center in range(-3, len(bases) + 3):  # the width of one base: where has each base gone?
            assert text(haplotype, contig, center, center + 1) == expected(bases, edits[contig], center, center + 1)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples(), st.lists(st.tuples(st.integers(-20, 45), st.integers(1, 60)), min_size=4, max_size=4))
def test_no_window_reaches_further_than_is_told(tmp_path, sample, windows):
    contigs, rows, spec = sample
    haplotype = make(tmp_path / hashlib.sha256(repr(sample).encode()).hexdigest(), rows, contigs, **spec)
    edits, _ = truth(rows, contigs, haplotype.spec)
    for contig, bases in contigs.items():
        marked = "".join(chr(1000 + base) for base in range(len(bases)))  # each base says where it is from
        for start, width in windows:
            held = [ord(mark) - 1000 for mark in expected(marked, edits[contig], start, start + width)]
            reach_bp = haplotype.overreach_bp(width)
            assert all(start - reach_bp <= base < start + width + reach_bp for base in held if base >= 0)


def test_deletions_within_half_a_window_add_up(tmp_path):
    bases = "".join(np.random.default_rng(1).choice(list("ACGT"), 200))
    deletions = ((20, 5), (30, 7), (100, 4))
    rows = [("c1", start, bases[start - 1 : start + size], bases[start - 1], "1|1") for start, size in deletions]
    rows.insert(2, ("c1", 60, bases[59], bases[59] + "ACGTACG", "1|1"))
    haplotype = make(tmp_path, rows, {"c1": bases}, indels="apply")
    assert [haplotype.overreach_bp(width) for width in (1, 30, 400)] == [7, 12, 12]
    assert make(tmp_path, rows, {"c1": bases}).overreach_bp(400) == haplotype.reference.overreach_bp(400) == 0


def test_a_window_is_read_outward_from_its_centre(tmp_path):
    rows = [("c1", 3, "G", "GAA", "1|0"), ("c1", 6, "CGT", "C", "0|1"), ("c1", 9, "A", "G", "1|1")]
    #  ACGTACGTACGTACGTACGT  the reference, of 20 bases
    one = make(tmp_path, rows, indels="apply")  # ACGaaTACGTgCGTACGTACGT
    two = make(tmp_path, rows, indels="apply", haplotype=2)  # ACGTACgCGTACGTACGT
    assert text(one, "c1", 0, 20) == "GAATACGTGCGTACGTACGT"  # base 10 is in the middle, all others around it
    assert text(one, "c1", -2, 24) == "NACGAATACGTGCGTACGTACGTNNN"[1:] + "N"
    assert text(two, "c1", 0, 20) == "NNACGTACGCGTACGTACGT"
    assert text(two, "c1", 6, 7) == text(two, "c1", 7, 8) == "G"  # deleted: the next base there is
    assert text(two, "c1", 2, 4) == "GT"
    assert text(one, "c1", 4, 4) == ""
    assert text(one, "c2", -1, 4) == "NTTTT"
    assert one.contig_lengths == {"c1": 20, "c2": 10}


def test_without_indels_every_base_stands_where_the_reference_has_it(tmp_path):
    rows = [("c1", 3, "G", "GAA", "1|0"), ("c1", 9, "AC", "GT", "1|1"), ("c1", 20, "T", "A", "0|1")]
    haplotype = make(tmp_path, rows)
    assert text(haplotype, "c1", -1, 21) == "NACGTACGTGTGTACGTACGTN"
    assert haplotype.counts["indels, left as reference"] == 1
    whole = haplotype.codes("c1", -5, 25)
    for start, end in itertools.combinations(range(-5, 26), 2):
        assert np.array_equal(haplotype.codes("c1", start, end), whole[start + 5 : end + 5])


def test_bcftools_makes_the_same_haplotypes(tmp_path):
    random = np.random.default_rng(5)
    bases = decode(random.integers(0, 4, 20_000, np.uint8))
    rows = []
    for pos in range(3, 19_950, 7):  # far enough apart: bcftools counts anchor bases as overlaps
        ref = bases[pos - 1 : pos - 1 + random.choice([1, 1, 1, 3])]
        alt = random.choice([other for other in "ACGT" if other != ref[0]]) if len(ref) == 1 else ref[0]
        alt = ref + "AC" if random.random() < 0.2 else alt
        rows.append(("c1", pos, ref, alt, str(random.choice(["0|1", "1|0", "1|1", "0|0"]))))
    for number in (1, 2):
        haplotype = make(tmp_path, rows, {"c1": bases}, indels="apply", haplotype=number)
        pysam.tabix_compress(str(tmp_path / "v.vcf"), str(tmp_path / "v.vcf.gz"), force=True)
        pysam.tabix_index(str(tmp_path / "v.vcf.gz"), preset="vcf", force=True)
        asked = ["-s", "S", "-H", str(number), "-f", str(tmp_path / "g.fa"), "-o", str(tmp_path / f"{number}.fa")]
        pysam.bcftools.consensus(*asked, str(tmp_path / "v.vcf.gz"), catch_stdout=False)
        theirs = "".join((tmp_path / f"{number}.fa").read_text().split()[1:])
        assert len(theirs) != len(bases)
        ours = text(haplotype, "c1", -20_000, 40_000).strip("N")
        assert ours == theirs
        assert haplotype.counts["records applied"] > 1300


def test_the_first_of_two_records_wins_where_their_edits_meet(tmp_path):
    rows = [
        ("c1", 2, "C", "T", "1|1"),
        ("c1", 2, "C", "G", "1|1"),
        ("c1", 2, "C", "CAA", "1|1"),  # after the base that the first one replaces: both
        ("c1", 9, "ACGTA", "A", "1|1"),
        ("c1", 9, "A", "G", "1|1"),  # the base before the deletion: both
        ("c1", 10, "C", "T", "1|1"),  # deleted
        ("c1", 13, "A", "T", "1|1"),  # deleted too
        ("c1", 14, "C", "T", "1|1"),  # the base after the deletion
    ]
    haplotype = make(tmp_path, rows, indels="apply")
    assert text(haplotype, "c1", -20, 40).strip("N") == "ATAAGTACGTGTGTACGT"
    assert counted(haplotype) == {Fate.APPLIED: 5, Fate.OVERLAP: 3}
    other = make(tmp_path / "turned", [rows[1], rows[0]])
    assert text(other, "c1", 0, 3) == "AGG"


def test_both_haplotypes_of_every_kind_of_genotype(tmp_path):
    genotypes = {"0|1": "CT", "1|0": "TC", "1|2": "TG", "1": "TT", "1/1": "TT", ".|1": "CT", "1|.": "TC", "|0|1": "CT"}
    genotypes |= {".": "CC", "./.": "CC", "0/0": "CC", "1/1/1": "TT", "0|1|1": "CT", "./1": "CC", "/1|0": "CC"}
    for genotype, wanted in genotypes.items():
        found = [
            text(make(tmp_path, [("c1", 2, "C", "T,G", genotype)], haplotype=number, unphased="reference"), "c1", 1, 2)
            for number in (1, 2)
        ]
        assert "".join(found) == wanted, genotype
    for genotype, wanted in {"0/1": "T", "1/0": "T", "2/1": "G", "0/0/2": "G"}.items():
        haplotype = make(tmp_path, [("c1", 2, "C", "T,G", genotype)], unphased="alternate")
        assert text(haplotype, "c1", 1, 2) == wanted
        assert counted(haplotype) == {Fate.APPLIED_WITHOUT_PHASE: 1}


def test_a_file_without_samples_gives_the_first_alternate_allele(tmp_path):
    rows = [("c1", 1, "A", "T,C", ""), ("c1", 2, "C", ".", ""), ("c1", 3, "G", "<DEL>,A", "")]
    for number in (1, 2):
        haplotype = make(tmp_path, rows, sample=None, haplotype=number)
        assert text(haplotype, "c1", 0, 4) == "TCGT"
        assert counted(haplotype) == {Fate.APPLIED: 1, Fate.SAME_AS_REFERENCE: 1, Fate.SYMBOL_OR_STAR: 1}


def test_contigs_are_matched_by_their_names(tmp_path):
    rows = [("2", 1, "T", "A", "1"), ("un", 1, "C", "G", "0/1"), ("un", 2, "C", "G", "1")]
    haplotype = make(tmp_path, rows, {"chr1": "ACGT", "chr2": "TTTT"})
    assert text(haplotype, "chr2", 0, 4) == "ATTT"
    assert counted(haplotype) == {Fate.APPLIED: 1, Fate.CONTIG_NOT_IN_GENOME: 2}  # nobody asks for their phase


def test_digests_tell_which_variants_were_applied(tmp_path):
    rows = [("c1", 1, "A", "T", "0|1"), ("c1", 3, "G", "GA", "0|1"), ("c1", 4, "T", "C", "0|1")]
    reference = write_genome(tmp_path)
    one = make(tmp_path, rows)
    assert (one.digest, one.contig_digests) == (reference.digest, reference.contig_digests)  # none
    two = make(tmp_path, rows, haplotype=2)
    assert two.contig_digests["c2"] == reference.contig_digests["c2"]
    others = [make(tmp_path, rows, haplotype=2, indels="apply"), make(tmp_path, rows[1:], haplotype=2)]
    others += [make(tmp_path, [("c1", 1, "A", "C", "1"), rows[2]], haplotype=2)]
    assert len({one.digest, two.digest, *(other.digest for other in others)}) == 5
    written_otherwise = make(tmp_path / "other", [rows[2], ("c1", 1, "AC", "TC", "1|1")], haplotype=2)
    assert written_otherwise.digest == two.digest


def test_a_haplotype_is_pickled_by_its_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("CISRAY_DATA", str(tmp_path))
    reference = write_genome(tmp_path)
    rows = [("c1", pos, base, "G", "1|1") for pos, base in enumerate(GENOME["c1"], start=1) if base != "G"]
    haplotype = Haplotype(reference, HaplotypeSpec(variants=write_vcf(tmp_path, rows), sample="S"))
    packed = pickle.dumps(haplotype)
    monkeypatch.delenv("CISRAY_DATA")  # a worker may have another environment
    again = pickle.loads(packed)
    assert len(packed) < 1000
    assert text(again, "c1", 0, 20) == "G" * 20
    assert (again.digest, again.counts, again.path) == (haplotype.digest, haplotype.counts, tmp_path / "v.vcf")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (("c1", 2, "G", "T", "1"), r"v\.vcf: c1:2: REF is G, but .*g\.fa has C there; give the FASTA file that"),
        (("c1", 2, "CGA", "C", "1"), r"c1:2: REF is CGA, but .* has CGT there"),
        (("c1", 0, "G", "T", "1"), r"v\.vcf: c1:0: REF G does not lie within the 20 bases that .*g\.fa has; give"),
        (("c1", 20, "TA", "T", "1"), "c1:20: REF TA does not lie within the 20 bases"),
        (("c1", 2, "C", "T", "0/1"), r"v\.vcf: c1:2: sample S has the genotype 0/1, heterozygous without phase; phase"),
        (("c3", 2, "C", "T", "1"), r"v\.vcf: no record lies on a contig of .*g\.fa, but on c3; give the FASTA"),
    ],
)
def test_variants_that_do_not_fit_are_refused(tmp_path, row, match):
    good = [] if row[0] == "c3" else [("c1", 1, "A", "T", "1|0")]
    with pytest.raises(InputError, match=match):
        make(tmp_path, [*good, row], indels="apply")
    if row[0] == "c1":
        make(tmp_path, [*good, (*row[:4], "0")])  # not on this haplotype


def test_a_missing_file_an_empty_sample_and_a_turned_interval_are_refused(tmp_path):
    reference = write_genome(tmp_path)
    with pytest.raises(InputError, match=r"none\.vcf: no such input file"):
        Haplotype(reference, HaplotypeSpec(variants="none.vcf"), str(tmp_path))
    with pytest.raises(ValueError, match="sample is empty; name a column"):
        HaplotypeSpec(variants="v.vcf", sample="")
    haplotype = make(tmp_path, [("c1", 1, "A", "T", "1")])
    with pytest.raises(InputError, match="c1:5-4 starts after its end"):
        haplotype.codes("c1", 5, 4)
    with pytest.raises(InputError, match=r"g\.fa: no contig 'chr1'"):
        haplotype.codes("chr1", 0, 4)


@needs_data
def test_a_yeast_isolate_is_what_bcftools_makes_of_it(tmp_path):
    reference = Reference(Path(DATA) / "yeast" / "sacCer3.fa.gz", tmp_path)
    with pytest.raises(InputError, match="chrI:582: sample BKI has the genotype 0/1, heterozygous without phase"):
        Haplotype(reference, HaplotypeSpec(variants="yeast/sacCer3_sample_variants.vcf.gz", sample="BKI"), DATA)
    settings = {"variants": "yeast/sacCer3_sample_variants.vcf.gz", "sample": "BKI", "unphased": "alternate"}
    skipped = Haplotype(reference, HaplotypeSpec(**settings), DATA)
    assert counted(skipped) == {Fate.APPLIED: 42_572, Fate.APPLIED_WITHOUT_PHASE: 344, Fate.INDEL: 1_335}
    begin = time.perf_counter()
    haplotype = Haplotype(reference, HaplotypeSpec(**settings, indels="apply"), DATA)
    assert time.perf_counter() - begin < 2
    assert counted(haplotype) == {Fate.APPLIED: 43_802, Fate.APPLIED_WITHOUT_PHASE: 449}
    packed, plain = tmp_path / "v.vcf.gz", tmp_path / "g.fa"
    plain.write_bytes(gzip.decompress(reference.path.read_bytes()))
    (tmp_path / "v.vcf").write_bytes(gzip.decompress(haplotype.path.read_bytes()))
    pysam.tabix_compress(str(tmp_path / "v.vcf"), str(packed))
    pysam.tabix_index(str(packed), preset="vcf")
    asked = ["-s", "BKI", "-H", "A", "-f", str(plain), "-o", str(tmp_path / "theirs.fa")]
    pysam.bcftools.consensus(*asked, str(packed), catch_stdout=False)
    theirs = Reference(tmp_path / "theirs.fa", tmp_path)
    for contig, length in theirs.contig_lengths.items():
        codes = haplotype.codes(contig, -length, 2 * length)
        inside = np.flatnonzero(codes < 4)
        assert np.array_equal(codes[inside[0] : inside[-1] + 1], theirs.codes(contig, 0, length))


@needs_data
def test_a_human_contig_without_genotypes_takes_its_first_alternate_alleles(tmp_path):
    reference = Reference(Path(DATA) / "vcf" / "z.fa", tmp_path)
    haplotype = Haplotype(reference, HaplotypeSpec(variants="vcf/z.vcf.gz"), DATA)
    assert counted(haplotype) == {Fate.APPLIED: 28_116, Fate.INDEL: 858, Fate.SYMBOL_OR_STAR: 24}
    differing = haplotype.codes("z", 0, 1_000_000) != reference.codes("z", 0, 1_000_000)
    assert 28_000 < differing.sum() < 28_300
    whole = Haplotype(reference, HaplotypeSpec(variants="vcf/z.vcf.gz", indels="apply"), DATA)
    lines = gzip.decompress(whole.path.read_bytes()).decode().splitlines()
    fields = [line.split("\t") for line in lines if not line.startswith("#")]
    rows = [(contig, int(pos), ref, alts, "1", "PASS") for contig, pos, _, ref, alts, *_ in fields]
    edits, counts = truth(rows, {"z": reference.bases("z", 0, 1_000_000)}, whole.spec)
    assert counted(whole) == counts
    assert counts[Fate.OVERLAP] == 42
    gained = sum(len(alt) - (end - start) for start, end, alt in edits["z"])
    ends = np.flatnonzero(whole.codes("z", -1_000_000, 2_000_000) < 4)[[0, -1]]
    assert ends[1] + 1 - ends[0] == reference.contig_lengths["z"] + gained
