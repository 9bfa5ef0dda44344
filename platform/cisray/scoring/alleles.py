"""Say whether a variant can be scored, and make the two windows that a model compares."""

import re
from enum import IntFlag, StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import UNKNOWN, encode
from cisray.genome.variants import Variant

ACGT = re.compile(r"[ACGTacgt]+")


class Status(StrEnum):
    """Whether a row has scores, and if not, why."""

    OK = "OK"
    REF_MISMATCH = "REF_MISMATCH"
    CONTIG_UNKNOWN = "CONTIG_UNKNOWN"
    OUT_OF_CONTIG = "OUT_OF_CONTIG"
    NON_ACGT = "NON_ACGT"
    SYMBOLIC = "SYMBOLIC"
    STAR = "STAR"
    MISSING_ALT = "MISSING_ALT"
    TOO_LONG = "TOO_LONG"


class Flag(IntFlag):
    """What to know of a scored row, as bits of a uint16."""

    EDGE_PADDED = 1
    """A window reaches beyond its contig; N stands there."""
    HAS_N = 2
    """A window has an N, from the genome or from padding."""
    INDEL = 4
    """The alleles differ in length: bases to the right of the variant are shifted against the reference."""


class AllelePair(NamedTuple):
    """The two windows that a model compares."""

    window_start: int
    """0-based; below zero where the window reaches beyond the contig's left end."""
    reference_codes: NDArray[np.uint8]
    """[L]"""
    alternate_codes: NDArray[np.uint8]
    """[L]"""
    flags: Flag


def classify(variant: Variant, contig: str | None, reference: Reference, *, max_allele_bp: int) -> Status:
    """Say whether a variant can be scored; `contig` is its name in the reference, None if it has none.

    The first that holds, in this order: CONTIG_UNKNOWN, MISSING_ALT (no ALT, or "."), STAR ("*"), SYMBOLIC
    ("<...>" and breakends), NON_ACGT (any other letter in REF or ALT: N, IUPAC), OUT_OF_CONTIG (the position
    is below 1 or REF ends beyond the contig), TOO_LONG (REF or ALT, as written, longer than `max_allele_bp`),
    REF_MISMATCH (any base of REF is not the genome's, upper and lower case being one), OK.
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
    if variant.ref.upper() != reference.bases(contig, start, end).upper():
        return Status.REF_MISMATCH
    return Status.OK


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


def window_pair(variant: Variant, contig: str, reference: Reference, *, window_bp: int) -> AllelePair:
    """Make the windows of a variant that `classify` found OK; the policy is "centered".

    Both start window_bp // 2 bases before the variant's first base as written. The alternate is anchored
    there: a deletion draws real bases in from the right, an insertion pushes bases out at the right, so
    that both windows have `window_bp` bases. Beyond the contig's ends stands N.

    Raises InputError for an allele that does not fit into the right half of the window.
    """
    right_bp = window_bp - window_bp // 2
    longest_bp = max(len(variant.ref), len(variant.alt))
    if longest_bp > right_bp:
        raise InputError(
            f"{contig}:{variant.pos} has an allele of {longest_bp} bp, but a window of {window_bp} bp holds "
            f"{right_bp} bp from the variant on; lower max_allele_bp to {right_bp} or below"
        )
    offset, replaced, inserted = trim(variant.ref.upper(), variant.alt.upper())
    window_start = variant.pos - 1 - window_bp // 2
    window_end = window_start + window_bp
    drawn_in_bp = max(len(replaced) - len(inserted), 0)
    bases = reference.codes(contig, window_start, window_end + drawn_in_bp)
    edit_start = window_bp // 2 + offset  # in the window
    edited = [bases[:edit_start], encode(inserted), bases[edit_start + len(replaced) :]]
    reference_codes, alternate_codes = bases[:window_bp], np.concatenate(edited)[:window_bp]

    flags = Flag(0)
    if window_start < 0 or window_end + drawn_in_bp > reference.contig_lengths[contig]:
        flags |= Flag.EDGE_PADDED
    if UNKNOWN in reference_codes or UNKNOWN in alternate_codes:
        flags |= Flag.HAS_N
    if len(replaced) != len(inserted):
        flags |= Flag.INDEL
    return AllelePair(window_start, reference_codes, alternate_codes, flags)
