"""Say whether a variant can be scored, and in which one form its edit of the genome is written."""

import re
from enum import IntFlag, StrEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import encode
from cisray.genome.variants import Variant

ACGT = re.compile(r"[ACGTacgt]+")
MismatchPolicy = Literal["skip", "flip", "use_vcf", "error"]
"""What becomes of a variant whose REF is not the genome's; see `settle_mismatch`."""
_FIRST_READ_BP = 32  # of the genome beside an indel; twice as much each time that is not enough
_MOST_READ_BP = 1 << 16


class Status(StrEnum):
    """Whether a row has scores, and if not, why."""

    OK = "OK"
    REF_FLIPPED = "REF_FLIPPED"
    """Has scores, those of ALT -> REF turned round: the genome has ALT."""
    REF_MISMATCH = "REF_MISMATCH"
    CONTIG_UNKNOWN = "CONTIG_UNKNOWN"
    OUT_OF_CONTIG = "OUT_OF_CONTIG"
    NON_ACGT = "NON_ACGT"
    SYMBOLIC = "SYMBOLIC"
    STAR = "STAR"
    MISSING_ALT = "MISSING_ALT"
    TOO_LONG = "TOO_LONG"
    NO_BINS = "NO_BINS"
    """No bin that scores read lies in its window."""


SCORED = frozenset({Status.OK, Status.REF_FLIPPED})
"""The statuses of rows that have scores."""


class Flag(IntFlag):
    """What to know of a scored row, as bits of a uint16."""

    EDGE_PADDED = 1
    """A window reaches beyond its contig; N stands there."""
    HAS_N = 2
    """A window has an N, from the genome or from padding."""
    INDEL = 4
    """The alleles differ in length: bases to the right of the variant are shifted against the reference."""
    OFF_CENTRE = 8
    """The variant is not at the middle of its window; `center_offset` says how far off."""
    DEDUPLICATED = 16
    """Another row of the block is the same edit: both have the scores of one computation."""
    REF_FROM_VCF = 32
    """The genome has other bases than REF; REF was written over them for this row."""
    INDEL_STITCHED = 64
    """Scores join what lies left of the variant in one forward with what lies right of it in another."""


class Bases(Protocol):
    """What variants are held against: a `Reference`, or one that a variant's REF was written over."""

    contig_lengths: dict[str, int]

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes [end-start] of an interval, N beyond both ends of the contig."""

    def bases(self, contig: str, start: int, end: int) -> str:
        """Return the uppercase letters of an interval, N beyond both ends of the contig."""


class Edit(NamedTuple):
    """What one ALT does to a contig: trimmed, and an indel as far left as it can stand."""

    start: int
    """0-based, the first base that is replaced; of an insertion, the base that it stands before."""
    removed_bp: int
    inserted: NDArray[np.uint8]
    """Codes [k]."""

    def key(self) -> tuple[int, int, bytes]:
        """Return what equal edits of one contig have in common, and no others."""
        return self.start, self.removed_bp, self.inserted.tobytes()


class Normal(NamedTuple):
    """The one form in which an edit is written, whatever its record wrote."""

    norm_pos: int
    """1-based."""
    norm_ref: str
    """Trimmed; of an indel with the base before it, or after it at the contig's start."""
    norm_alt: str
    edit: Edit


class PatchedReference:
    """A genome that a variant's REF is written over, base for base: its alternate is read against that."""

    def __init__(self, reference: Bases, contig: str, start: int, written: str) -> None:
        self.contig_lengths = reference.contig_lengths
        self._reference, self._contig, self._start, self._written = reference, contig, start, written.upper()

    @property
    def written(self) -> tuple[int, str]:
        """Where, 0-based, and what is written over the genome."""
        return self._start, self._written

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes [end-start] of an interval, N beyond both ends of the contig."""
        codes = self._reference.codes(contig, start, end)
        first, last = max(start, self._start), min(end, self._start + len(self._written))
        if contig == self._contig and first < last:
            codes[first - start : last - start] = encode(self._written[first - self._start : last - self._start])
        return codes

    def bases(self, contig: str, start: int, end: int) -> str:
        """Return the uppercase letters of an interval, N beyond both ends of the contig."""
        bases = self._reference.bases(contig, start, end)
        first, last = max(start, self._start), min(end, self._start + len(self._written))
        if contig != self._contig or first >= last:
            return bases
        return bases[: first - start] + self._written[first - self._start : last - self._start] + bases[last - start :]


def classify(
    variant: Variant,
    contig: str | None,
    reference: Reference,
    *,
    max_allele_bp: int,
    ref_mismatch: MismatchPolicy = "skip",
) -> Status:
    """Say whether a variant can be scored; `contig` is its name in the reference, None if it has none.

    The first that holds, in this order: CONTIG_UNKNOWN, MISSING_ALT (no ALT, or "."), STAR ("*"), SYMBOLIC
    ("<...>" and breakends), NON_ACGT (any other letter in REF or ALT: N, IUPAC), OUT_OF_CONTIG (the position
    is below 1 or REF ends beyond the contig), TOO_LONG (REF or ALT, as written, longer than `max_allele_bp`),
    REF_MISMATCH (any base of REF is not the genome's, upper and lower case being one; or what `settle_mismatch`
    makes of it), OK.

    Raises InputError for a mismatch where the policy is "error".
    """
    if contig is None or contig not in reference.contig_lengths:
        return Status.CONTIG_UNKNOWN
    of_alleles = _classify_alleles(variant.ref, variant.alt)
    if of_alleles is not Status.OK:
        return of_alleles
    start = variant.pos - 1
    end = start + len(variant.ref)
    if start < 0 or end > reference.contig_lengths[contig]:
        return Status.OUT_OF_CONTIG
    if max(len(variant.ref), len(variant.alt)) > max_allele_bp:
        return Status.TOO_LONG
    if variant.ref.upper() != reference.bases(contig, start, end):
        return settle_mismatch(variant, contig, reference, ref_mismatch)
    return Status.OK


def settle_mismatch(variant: Variant, contig: str, reference: Reference, policy: MismatchPolicy) -> Status:
    """Say what a variant with another REF than the genome's becomes.

    "skip": REF_MISMATCH, and no score. "flip": REF_FLIPPED where the genome has ALT there, letter for letter (of a
    deletion that is no more than the base before it), else REF_MISMATCH. A flipped row is scored as the genome's
    edit ALT -> REF with the parts exchanged, the edited window being the reference: signed scores change their
    sign against that edit's own, the others do not. "use_vcf": OK, with REF written over the genome. "error":
    raises InputError.
    """
    start = variant.pos - 1
    if policy == "error":
        raise InputError(
            f"record {variant.record_index + 1} of the variants, {variant.contig}:{variant.pos}, has the REF "
            f"{variant.ref[:50]}, but the genome has {reference.bases(contig, start, start + len(variant.ref))[:50]} "
            f"at {contig}:{variant.pos}; give the genome that the variants were called on, or set ref_mismatch to "
            '"skip", "flip" or "use_vcf"'
        )
    if policy == "use_vcf":
        return Status.OK
    if policy == "flip" and variant.alt.upper() == reference.bases(contig, start, start + len(variant.alt)):
        return Status.REF_FLIPPED
    return Status.REF_MISMATCH


def _classify_alleles(ref: str, alt: str) -> Status:
    """Say what the letters alone tell."""
    if alt in ("", "."):
        return Status.MISSING_ALT
    if alt == "*":
        return Status.STAR
    # a lone breakend has a dot at one end: "G." or ".G" (VCF 4.3, section 5.4)
    if alt.startswith(("<", ".")) or alt.endswith((">", ".")) or "[" in alt or "]" in alt:
        return Status.SYMBOLIC
    if not ACGT.fullmatch(ref) or not ACGT.fullmatch(alt):
        return Status.NON_ACGT
    return Status.OK


def trim(ref: str, alt: str) -> tuple[int, str, str]:
    """Cut what two alleles of one case share, first at their ends, then at their starts.

    Gives how many bases the edit lies to the right of the alleles' first, and what it replaces by what: both
    empty for equal alleles.
    """
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    offset = 0
    while offset < min(len(ref), len(alt)) and ref[offset] == alt[offset]:
        offset += 1
    return offset, ref[offset:], alt[offset:]


def normalise(variant: Variant, contig: str, reference: Bases) -> Normal:
    """Write a variant whose REF is that of `reference` in the one form that all its spellings have.

    Trimmed at the right, moved left, trimmed at the left, as far as the contig goes (Tan et al., Bioinformatics
    2015). Records that make the same sequence of a contig have one form. The form of ALT = REF is its first base.
    """
    ref, alt = variant.ref.upper(), variant.alt.upper()
    if ref == alt:
        return Normal(variant.pos, ref[0], alt[0], Edit(variant.pos - 1, 0, encode("")))
    offset, removed, inserted = trim(ref, alt)
    start = variant.pos - 1 + offset
    if removed and inserted:
        return Normal(start + 1, removed, inserted, Edit(start, len(removed), encode(inserted)))
    moved_bp = _room_at_left(removed or inserted, contig, start, reference)
    start -= moved_bp
    removed, inserted = _rotated(removed, moved_bp), _rotated(inserted, moved_bp)
    edit = Edit(start, len(removed), encode(inserted))
    if start > 0:
        anchor = reference.bases(contig, start - 1, start)
        return Normal(start, anchor + removed, anchor + inserted, edit)
    anchor = reference.bases(contig, len(removed), len(removed) + 1)
    return Normal(1, removed + anchor, inserted + anchor, edit)


def swapped(variant: Variant) -> Variant:
    """Return the variant with its alleles exchanged: what a REF_FLIPPED one is in the genome."""
    return variant._replace(ref=variant.alt, alt=variant.ref)


def _room_at_left(unit: str, contig: str, start: int, reference: Bases) -> int:
    """Return by how many bases an indel of `unit` before `start` can move left without another outcome."""
    repeat = encode(unit)[::-1]  # from right to left, like all that is read here
    moved_bp, read_bp = 0, _FIRST_READ_BP
    while moved_bp < start:
        end = start - moved_bp
        beside = reference.codes(contig, max(end - read_bp, 0), end)[::-1]
        expected = repeat[(moved_bp + np.arange(len(beside))) % len(repeat)]
        if len(differing := np.flatnonzero(beside != expected)):
            return moved_bp + int(differing[0])
        moved_bp += len(beside)
        read_bp = min(2 * read_bp, _MOST_READ_BP)
    return moved_bp


def _rotated(unit: str, moved_bp: int) -> str:
    """Return what an indel's bases read after it has moved left through repeats of itself."""
    if not unit:
        return unit
    cut = -moved_bp % len(unit)
    return unit[cut:] + unit[:cut]
