"""Name a stretch of a contig, and read one that a person typed."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cisray.errors import InputError

_SPAN = re.compile(r"(?P<start>\d[\d,_]*)-(?P<end>\d[\d,_]*)")


@dataclass(frozen=True)
class Interval:
    """A stretch of a contig, 0-based half-open; it may reach beyond the contig's ends."""

    contig: str
    start: int
    end: int
    strand: str = "."
    """One of "+", "-" and "." (no strand)."""

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise InputError(f"interval {self} starts after its end; the start must come first")
        if self.strand not in {"+", "-", "."}:
            raise InputError(f"interval {self} has strand {self.strand!r}; give '+', '-' or '.'")

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"

    @property
    def width(self) -> int:
        """Bases from start to end."""
        return self.end - self.start

    @property
    def center(self) -> int:
        """The base in the middle; the right one of two in an interval of even width."""
        return self.start + self.width // 2


def parse_region(text: str, contig_lengths: Mapping[str, int]) -> Interval:
    """Read `contig` or `contig:start-end`, 0-based half-open; numbers may hold commas and underscores.

    Raises InputError for an unknown contig, an unreadable or empty span, or one beyond the contig's end.
    """
    if text in contig_lengths:  # first, because contig names may hold colons (HLA alleles do)
        return Interval(text, 0, contig_lengths[text])
    contig, colon, span = text.rpartition(":")
    if not colon:
        raise InputError(f"region {text!r}: no such contig{suggest_names(text, contig_lengths)}")
    found = _SPAN.fullmatch(span)
    if contig not in contig_lengths:
        near = suggest_names(contig, contig_lengths)
        raise InputError(f"region {text!r}: no contig {contig!r}{near}")
    if found is None:
        raise InputError(f"region {text!r}: {span!r} is not a span; write contig:start-end, as in {contig}:1000-2000")
    start, end = (int(re.sub("[,_]", "", found[part])) for part in ("start", "end"))
    if start >= end:
        raise InputError(f"region {text!r} holds no base; give a start below the end (0-based half-open)")
    if end > contig_lengths[contig]:
        raise InputError(
            f"region {text!r} ends at {end}, beyond {contig}, which has {contig_lengths[contig]} bases; "
            "give a smaller end"
        )
    return Interval(contig, start, end)


def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return a phrase for an error about an unknown `name`: the nearest known names, or the first few."""
    names = list(known)
    bare = {re.sub("^chr", "", other.lower()): other for other in reversed(names)}
    near = difflib.get_close_matches(re.sub("^chr", "", name.lower()), bare, n=3, cutoff=0.6)
    if near:
        return f"; the nearest are {', '.join(bare[other] for other in near)}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"; there are {', '.join(names[:5])}{more}"
