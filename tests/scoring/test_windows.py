import os
import pickle
import random
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import decode
from cisray.genome.variants import Variant, read_variants
from cisray.scoring.alleles import SCORED, Flag, Status, classify
from cisray.scoring.windows import Placing, WindowSpec, place_variants

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
CONTIGS = {
    "chr1": "ACGTTGCAAGNNTCCATGACGATTACAGGA" + "CA" * 20 + "GATTACA" * 4 + "TTTTTTTTTT",
    "chr2": "aaaaaaaaaaccccccccccaaaaaaaaaagggggggggg" + "N" * 12 + "gtgtgtgtgtac",
}
NUM_BINS = 5
GRID = WindowSpec(policy="grid", grid_bp=8)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "genome.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in CONTIGS.items()))
    return Reference(folder / "genome.fa", cache_dir=folder / "cache")


def row(pos, ref, alt, contig="chr1", index=0):
    return Variant(record_index=index, allele_index=0, contig=contig, pos=pos, id=".", ref=ref, alt=alt)


def one_mask(contig, window_start, edit):
    return np.ones((1, NUM_BINS), bool)


def place(rows, reference, masks_of=one_mask, **changes):
    placing = Placing(**({"window_bp": 30, "max_allele_bp": 8} | changes))
    return place_variants(rows, [one.contig for one in rows], reference, placing=placing, masks_of=masks_of)


def both_windows(window, edit, window_bp):
    """Return reference and alternate as a model would read them, by plain slicing."""
    assert 0 <= edit.start < window_bp
    bases, first = decode(window.bases), window.flank_bp
    changed = bases[: first + edit.start] + decode(edit.inserted) + bases[first + edit.start + edit.removed_bp :]
    return bases[first : first + window_bp], changed[first : first + window_bp]


def padded(text, start, end):
    return "".join(text[at].upper() if 0 <= at < len(text) else "N" for at in range(start, end))


@st.composite
def any_row(draw):
    contig = draw(st.sampled_from(sorted(CONTIGS)))
    text = CONTIGS[contig].upper()
    start = draw(st.integers(0, len(text) - 1))
    ref = text[start : start + draw(st.integers(1, 6))]
    alt = draw(st.one_of(st.text("ACGT", min_size=1, max_size=6), st.sampled_from([ref[:1], ref + ref, ref[0] + ref])))
    if draw(st.integers(0, 4)) == 0:
        ref = draw(st.text("ACGT", min_size=1, max_size=5))  # most often not the genome's
    if draw(st.integers(0, 9)) == 0:
        alt = draw(st.sampled_from(["*", "<DEL>", ".", "N", "ACGTACGTA"]))
    return row(start + 1, ref, alt, contig)


some_rows = st.lists(any_row(), max_size=25)
policies = st.sampled_from(["skip", "flip", "use_vcf"])
specs = st.one_of(st.just(WindowSpec()), st.builds(WindowSpec, policy=st.just("grid"), grid_bp=st.integers(1, 13)))


def check_against_plain_text(placed, rows, contigs, reference):
    """Edit whole contigs as text, and hold every row's two windows against stretches of them."""
    spec, policy, window_bp = placed.placing.windows, placed.placing.ref_mismatch, placed.placing.window_bp
    windows = list(placed.windows())
    for number, one in enumerate(rows):
        status = classify(one, one.contig, reference, max_allele_bp=8, ref_mismatch=policy)
        assert placed.statuses[number] is status
        if status not in SCORED:
            assert (placed.window[number], placed.edit[number], placed.flags[number]) == (-1, -1, 0)
            assert placed.normals[number] is None
            continue
        text, start = contigs[one.contig].upper(), one.pos - 1
        removed, inserted = (one.alt, one.ref) if status is Status.REF_FLIPPED else (one.ref, one.alt)
        before = text[:start] + removed.upper() + text[start + len(removed) :]
        after = text[:start] + inserted.upper() + text[start + len(removed) :]
        assert (before == text) == (Flag.REF_FROM_VCF not in Flag(placed.flags[number]))
        window = windows[placed.window[number]]
        first = window.window_start
        found = both_windows(window, window.edits[placed.edit[number]], window_bp)
        assert found[0] == padded(before, first, first + window_bp)
        assert found[1] == padded(after, first, first + window_bp)
        flank_bp = window.flank_bp
        assert decode(window.bases) == padded(before, first - flank_bp, first + window_bp + flank_bp)
        assert placed.window_start[number] == first
        middle = first + window_bp // 2
        assert placed.center_offset[number] == placed.normals[number].norm_pos - 1 - middle
        if spec.policy == "centered":
            assert placed.center_offset[number] == 0
        else:
            assert (middle - spec.grid_bp // 2) % spec.grid_bp == 0
            assert -spec.grid_bp / 2 <= placed.center_offset[number] < spec.grid_bp / 2


@settings(max_examples=40)
@given(rows=some_rows, policy=policies, spec=specs, window_bp=st.integers(31, 60))
def test_every_row_finds_the_windows_that_plain_string_editing_makes(reference, rows, policy, spec, window_bp):
    placed = place(rows, reference, ref_mismatch=policy, windows=spec, window_bp=window_bp)
    check_against_plain_text(placed, rows, CONTIGS, reference)


@st.composite
def genome_and_vcf(draw):
    """A genome with repeats, N and lower case, and the text of a VCF that was called on it or on another one."""
    pieces = st.builds(str.__mul__, st.text("ACGTacgtN", min_size=1, max_size=4), st.integers(1, 12))
    contigs = {
        name: "".join(draw(st.lists(pieces, min_size=1, max_size=4)))
        for name in ("c1", "c2")[: draw(st.integers(1, 2))]
    }
    lines = []
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.sampled_from(sorted(contigs)))
        start = draw(st.integers(0, len(contigs[name]) - 1))
        ref = contigs[name][start : start + draw(st.integers(1, 5))]
        ref = ref if draw(st.integers(0, 4)) else draw(st.text("ACGT", min_size=1, max_size=4))
        alts = draw(st.lists(st.text("ACGTacgt", min_size=1, max_size=5) | st.just("*"), min_size=1, max_size=3))
        lines.append(f"{name}\t{start + 1}\t.\t{ref}\t{','.join(alts)}\n")
    return contigs, "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n" + "".join(lines)


@settings(max_examples=40)
@given(drawn=genome_and_vcf(), policy=policies, spec=specs, window_bp=st.integers(31, 40))
def test_random_files_on_random_genomes_are_what_plain_string_editing_makes(drawn, policy, spec, window_bp):
    contigs, text = drawn
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "genome.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
        (folder / "v.vcf").write_text(text)
        genome = Reference(folder / "genome.fa", cache_dir=folder / "cache")
        rows = list(read_variants(folder / "v.vcf"))
        placed = place(rows, genome, ref_mismatch=policy, windows=spec, window_bp=window_bp)
        check_against_plain_text(placed, rows, contigs, genome)


@needs_data
def test_real_variants_all_have_a_place(tmp_path):
    fasta = tmp_path / "z.fa"
    fasta.write_bytes((Path(DATA) / "vcf/z.fa").read_bytes())
    genome = Reference(fasta, cache_dir=tmp_path / "cache")
    rows = list(read_variants(Path(DATA) / "vcf/z.vcf.gz"))
    placed = place(rows, genome, window_bp=2114, max_allele_bp=100, windows=WindowSpec(policy="grid", grid_bp=512))
    assert Counter(placed.statuses) == {Status.OK: 29_120, Status.SYMBOLIC: 24}
    assert len(placed.num_edits) < 1_001_227 / 512 + 1
    assert placed.num_edits.sum() + sum(Flag.DEDUPLICATED in Flag(one) for one in placed.flags) == 29_120


@settings(max_examples=40)
@given(rows=some_rows, policy=policies, spec=specs)
def test_nothing_is_computed_twice_and_nothing_is_left_over(reference, rows, policy, spec):
    placed = place(rows, reference, ref_mismatch=policy, windows=spec)
    windows = list(placed.windows())
    outcomes, first_of = set(), {}
    for number, one in enumerate(rows):
        if placed.statuses[number] not in SCORED:
            continue
        # what is compared, told by whole contigs of text instead of normal forms; ALT = REF is one edit per position
        text, start = CONTIGS[one.contig].upper(), one.pos - 1
        flipped = placed.statuses[number] is Status.REF_FLIPPED
        removed, inserted = (one.alt, one.ref) if flipped else (one.ref, one.alt)
        before = text[:start] + removed.upper() + text[start + len(removed) :]
        after = text[:start] + inserted.upper() + text[start + len(removed) :]
        patch = (one.pos, one.ref.upper()) if before != text else None
        nothing = one.pos if before == after else None
        outcome = (one.contig, placed.window_start[number], patch, after, nothing)
        outcomes.add(outcome)
        pair = (placed.window[number], placed.edit[number])
        assert (Flag.DEDUPLICATED in Flag(placed.flags[number])) == (outcome in first_of)
        assert first_of.setdefault(outcome, pair) == pair
    assert len(set(first_of.values())) == len(outcomes) == placed.num_edits.sum()
    assert [len(window.edits) for window in windows] == placed.num_edits.tolist()
    keys = {(one[0], one[1], one[2]) for one in outcomes}
    assert len(windows) == len(keys)


@settings(max_examples=40)
@given(rows=some_rows, policy=policies, spec=specs, seed=st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(reference, rows, policy, spec, seed):
    rows = [one._replace(record_index=number) for number, one in enumerate(rows)]
    shuffled = random.Random(seed).sample(rows, len(rows))

    def told(rows):
        placed = place(rows, reference, ref_mismatch=policy, windows=spec)
        windows = list(placed.windows())
        answer = {}
        for number, one in enumerate(rows):
            normal = placed.normals[number]
            answer[one.record_index] = [placed.statuses[number], placed.flags[number] & ~Flag.DEDUPLICATED]
            if normal is not None:
                window = windows[placed.window[number]]
                windowed = both_windows(window, window.edits[placed.edit[number]], 30)
                answer[one.record_index] += [*windowed, window.window_start, *normal[:3], normal.edit.key()]
        return answer

    assert told(rows) == told(shuffled)


def test_spellings_of_one_edit_share_one_computation(reference):
    rows = [row(31, "CA", "C"), row(32, "AC", "A"), row(30, "ACA", "A"), row(40, "ACA", "A"), row(31, "CACAC", "CAC")]
    rows += [row(37, "C", "T"), row(36, "ACA", "ATA"), row(37, "C", "G"), row(37, "C", "c")]
    placed = place(rows, reference)
    (ca, c_out, first, second, third, *_) = placed.normals
    assert (ca.norm_pos, ca.norm_ref, ca.norm_alt) == (31, "CA", "C")
    assert (c_out.norm_pos, c_out.norm_ref, c_out.norm_alt) == (32, "AC", "A")
    for normal in (first, second, third):
        assert (normal.norm_pos, normal.norm_ref, normal.norm_alt) == (29, "GAC", "G")
    assert placed.window.tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 3]
    assert placed.edit.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert placed.num_edits.tolist() == [1, 1, 1, 3]
    flagged = [Flag.DEDUPLICATED in Flag(one) for one in placed.flags]
    assert flagged == [False, False, False, True, True, False, True, False, False]
    assert placed.window_start[5] == 36 - 15


def test_grid_windows_are_shared_and_anchored_by_eye(reference):
    rows = [row(41, "C", "A"), row(48, "A", "C"), row(49, "C", "A"), row(45, "C", "CT"), row(1, "A", "C")]
    placed = place(rows, reference, windows=GRID)
    assert placed.window.tolist() == [0, 0, 1, 0, 2]
    assert placed.window_start.tolist() == [44 - 15, 44 - 15, 52 - 15, 44 - 15, 4 - 15]
    assert placed.center_offset.tolist() == [-4, 3, -4, 0, -4]
    assert [Flag.OFF_CENTRE in Flag(one) for one in placed.flags] == [True, True, True, False, True]
    (shared, _, _) = placed.windows()
    assert [edit.start for edit in shared.edits] == [11, 18, 16]


def test_a_mismatch_is_flipped_or_written_over_the_genome(reference):
    rows = [row(1, "C", "A"), row(1, "A", "C"), row(1, "G", "T"), row(1, "G", "C"), row(2, "C", "G"), row(1, "G", "T")]
    placed = place(rows, reference, ref_mismatch="flip")
    assert [status.value for status in placed.statuses] == [
        "REF_FLIPPED",
        "OK",
        *["REF_MISMATCH"] * 2,
        "OK",
        "REF_MISMATCH",
    ]
    assert placed.flipped.tolist() == [True, False, False, False, False, False]
    assert (placed.window[0], placed.edit[0]) == (placed.window[1], placed.edit[1])  # one edit, told from both ends
    assert placed.normals[0][:3] == (1, "A", "C")  # the genome's
    placed = place(rows, reference, ref_mismatch="use_vcf")
    assert set(placed.statuses) == {Status.OK}
    assert placed.window.tolist() == [0, 1, 2, 2, 3, 2]
    windows = list(placed.windows())
    assert [decode(window.bases)[8 + 15 : 8 + 18] for window in windows] == ["CCG", "ACG", "GCG", "CGT"]
    assert [placed.normals[number][:3] for number in (0, 3)] == [(1, "C", "A"), (1, "G", "C")]
    assert Flag.REF_FROM_VCF in Flag(placed.flags[0])
    assert Flag.REF_FROM_VCF not in Flag(placed.flags[1])
    with pytest.raises(InputError, match=r"record 1 of the variants, chr1:1, has the REF C, but the genome has A"):
        place(rows, reference, ref_mismatch="error")


def test_indels_are_normalised_against_the_bases_that_are_read(reference):
    # T over the A at 98, before ten T: the deletion moves through it, which it could not in the genome
    placed = place([row(98, "TT", "T")], reference, ref_mismatch="use_vcf")
    assert CONTIGS["chr1"][95:100] == "ACATT"
    assert placed.normals[0][:3] == (97, "CT", "C")


@pytest.mark.parametrize(
    ("contig", "pos", "ref", "alt", "shifts", "flags"),
    [
        ("chr1", 60, "A", "C", (0,), Flag(0)),
        ("chr1", 15, "C", "G", (0,), Flag.EDGE_PADDED | Flag.HAS_N),
        ("chr1", 28, "G", "C", (0,), Flag(0)),
        ("chr1", 27, "A", "C", (0,), Flag.HAS_N),
        ("chr1", 28, "G", "C", (0, -1), Flag.HAS_N),  # a pass reads one base more to the left
        ("chr1", 28, "G", "GT", (0,), Flag.INDEL),
        ("chr2", 24, "A", "C", (0,), Flag(0)),
        ("chr2", 26, "A", "C", (0,), Flag(0)),
        ("chr2", 27, "A", "C", (0,), Flag.HAS_N),
        ("chr2", 26, "A", "C", (0, 1), Flag.HAS_N),
        ("chr2", 21, "AAAA", "A", (0,), Flag.INDEL),  # anchored at 20: no N within 3 bp
        ("chr2", 40, "G", "GA", (0,), Flag.HAS_N | Flag.INDEL),
    ],
)
def test_flags_tell_what_the_forwards_read(reference, contig, pos, ref, alt, shifts, flags):
    placed = place([row(pos, ref, alt, contig)], reference, shifts=shifts)
    assert placed.statuses == [Status.OK]
    assert Flag(placed.flags[0]) == flags
    first = int(placed.window_start[0]) + min(shifts)
    normal = placed.normals[0].edit
    last = int(placed.window_start[0]) + 30 + max(shifts) + max(normal.removed_bp - len(normal.inserted), 0)
    assert ("N" in padded(CONTIGS[contig], first, last)) == (Flag.HAS_N in flags)


def test_flanks_hold_the_longest_indel_and_shift(reference):
    placed = place([row(60, "A", "C")], reference, shifts=(-3, 0, 2), max_allele_bp=7)
    assert placed.placing.flank_bp == 10
    (window,) = placed.windows()
    assert len(window.bases) == 30 + 20
    assert pickle.loads(pickle.dumps(placed)).statuses == placed.statuses


def test_masks_are_asked_once_per_edit_and_may_be_none(reference):
    asked = []

    def masks_of(contig, window_start, edit):
        asked.append((contig, window_start, edit.start))
        return np.zeros((0 if edit.start == 59 else edit.start % 3 + 1, NUM_BINS), bool)

    rows = [row(60, "A", "C"), row(61, "C", "A"), row(61, "C", "A"), row(62, "A", "C"), row(60, "A", "C")]
    placed = place(rows, reference, masks_of)
    assert [status.value for status in placed.statuses] == ["NO_BINS", "OK", "OK", "OK", "NO_BINS"]
    assert placed.window.tolist() == [-1, 0, 0, 1, -1]
    assert asked == [("chr1", 44, 59), ("chr1", 45, 60), ("chr1", 46, 61), ("chr1", 44, 59)]
    assert [window.edits[0].masks.shape for window in placed.windows()] == [(1, NUM_BINS), (2, NUM_BINS)]


def test_contigs_are_those_of_the_genome(reference):
    rows = [row(60, "A", "C", "1"), row(60, "A", "C", "7")]
    placed = place_variants(
        rows, ["chr1", None], reference, placing=Placing(window_bp=30, max_allele_bp=8), masks_of=one_mask
    )
    assert placed.statuses == [Status.OK, Status.CONTIG_UNKNOWN]
    empty = place([], reference)
    assert (empty.statuses, list(empty.windows()), len(empty.num_edits)) == ([], [], 0)


def test_a_window_spec_has_a_name():
    assert (str(WindowSpec()), str(GRID), str(WindowSpec(policy="grid"))) == ("centered", "grid=8", "grid=2048")
    with pytest.raises(InputError, match="grid_bp=0; wanted a distance of at least 1 bp"):
        check_settings({"policy": "grid", "grid_bp": 0}, WindowSpec, source="job")


@pytest.mark.parametrize(
    ("given_settings", "match"),
    [
        ({"window_bp": 0}, "window_bp=0, max_allele_bp=8; wanted at least 1 of both"),
        ({"max_allele_bp": 0}, "window_bp=30, max_allele_bp=0; wanted at least 1"),
        ({"max_allele_bp": 16}, "max_allele_bp=16, but a window of 30 bp with the policy centered .* to 15 or less"),
        ({"max_allele_bp": 13, "windows": GRID}, "with the policy grid=8 may have only 12 bp from the variant on"),
        (
            {"windows": WindowSpec(policy="grid", grid_bp=31)},
            "grid_bp=31 lets variants lie outside of windows of 30 bp",
        ),
    ],
)
def test_a_placing_that_cannot_hold_its_variants_is_told(given_settings, match):
    with pytest.raises(InputError, match=match):
        Placing(**({"window_bp": 30, "max_allele_bp": 8} | given_settings))


@given(window_bp=st.integers(1, 40), grid_bp=st.integers(1, 40), norm_pos=st.integers(1, 200))
def test_a_grid_that_is_taken_holds_every_position_and_its_alleles(window_bp, grid_bp, norm_pos):
    spec = WindowSpec(policy="grid", grid_bp=grid_bp)
    if grid_bp > window_bp:
        with pytest.raises(InputError, match="lets variants lie outside"):
            Placing(window_bp=window_bp, windows=spec, max_allele_bp=1)
        return
    longest = window_bp - window_bp // 2 - spec.most_right_bp
    Placing(window_bp=window_bp, windows=spec, max_allele_bp=longest)
    start = spec.window_start(norm_pos, window_bp=window_bp)
    assert start <= norm_pos - 1 <= norm_pos - 1 + longest <= start + window_bp


@pytest.mark.parametrize(
    ("changes", "shifts", "message"),
    [
        ({}, (-8, 0, 15), None),
        ({}, (16,), r"shifts=\(16,\) move a variant out of its window of 30 bp; wanted shifts from -8 to 15 bp"),
        ({}, (0, -8), None),
        ({}, (0, -9), "wanted shifts from -8 to 15 bp"),
        ({"windows": GRID}, (11, -5), None),
        ({"windows": GRID}, (12,), "wanted shifts from -5 to 11 bp"),
        ({"windows": GRID}, (-6,), "wanted shifts from -5 to 11 bp"),
    ],
)
def test_shifts_keep_every_variant_in_its_window(changes, shifts, message):
    settings_of = {"window_bp": 30, "max_allele_bp": 7, "shifts": shifts} | changes
    if message is None:
        Placing(**settings_of)
    else:
        with pytest.raises(InputError, match=message):
            Placing(**settings_of)
