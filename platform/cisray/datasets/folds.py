"""Give every region of the genome to one split: by naming regions, or by k folds balanced in nucleotides.

Folds belong to loci: they depend on the genome and on this choice alone, so that datasets of one genome made
with the same folds never share a test locus.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.genome.intervals import Interval, parse_region

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Region(NamedTuple):
    """A stretch of one contig whose windows all play one role."""

    interval: Interval
    split: Split
    fold: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FoldSpec:
    """Either `valid` and `test` name regions and the rest is train, or `num_folds` cuts the genome evenly."""

    valid: tuple[str, ...] = ()
    """Regions of the validation split: "chrIX" or "chrIV:1000000-1531933"."""
    test: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Regions that belong to no split."""
    num_folds: int = 0
    """k of a k-fold cut; 0 means that regions are named."""
    valid_fold: int = 1
    test_fold: int = 0
    break_bp: int = 1_000_000
    """Contigs are broken at this length before k folds are dealt out."""

    def __post_init__(self) -> None:
        if self.num_folds and (self.valid or self.test):
            raise InputError("folds: name regions in valid and test, or set num_folds, not both")
        if not self.num_folds and not (self.valid and self.test):
            raise InputError("folds: both valid and test need at least one region, or set num_folds to 3 or more")
        if self.num_folds and not (
            self.num_folds >= 3
            and self.valid_fold != self.test_fold
            and {self.valid_fold, self.test_fold} <= set(range(self.num_folds))
        ):
            raise InputError(
                f"folds: num_folds={self.num_folds}, valid_fold={self.valid_fold}, test_fold={self.test_fold}; "
                "wanted at least 3 folds and two different ones below that number"
            )
        if self.break_bp < 1:
            raise InputError(f"folds: break_bp={self.break_bp}; wanted a positive length")


def assign_regions(spec: FoldSpec, contig_lengths: Mapping[str, int]) -> list[Region]:
    """Cut the genome into regions that do not overlap, each with its split and fold, in genome order.

    Raises:
        InputError: a region is unknown, or two named regions overlap.
    """
    excluded = [parse_region(text, contig_lengths) for text in spec.exclude]
    if spec.num_folds:
        return _deal_folds(spec, contig_lengths, excluded)
    named = [Region(parse_region(text, contig_lengths), "valid", 1) for text in spec.valid]
    named += [Region(parse_region(text, contig_lengths), "test", 2) for text in spec.test]
    taken = sorted([region.interval for region in named] + excluded, key=lambda i: (i.contig, i.start))
    for one, other in pairwise(taken):
        if one.contig == other.contig and other.start < one.end:
            raise InputError(f"folds: {one} and {other} overlap; a locus can play one role only")
    rest = [Region(interval, "train", 0) for interval in _complement(taken, contig_lengths)]
    order = {contig: index for index, contig in enumerate(contig_lengths)}
    return sorted(named + rest, key=lambda region: (order[region.interval.contig], region.interval.start))


def _complement(taken: Sequence[Interval], contig_lengths: Mapping[str, int]) -> list[Interval]:
    """Return what `taken` (sorted by start) leaves of the genome, in genome order."""
    free = []
    for contig, length in contig_lengths.items():
        start = 0
        for interval in taken:
            if interval.contig == contig:
                if interval.start > start:
                    free.append(Interval(contig, start, interval.start))
                start = max(start, interval.end)
        if start < length:
            free.append(Interval(contig, start, length))
    return free


def _deal_folds(spec: FoldSpec, contig_lengths: Mapping[str, int], excluded: Sequence[Interval]) -> list[Region]:
    """Break contigs into pieces of at most `break_bp` and give each, longest first, to the emptiest fold."""
    pieces = [
        Interval(free.contig, start, min(start + spec.break_bp, free.end))
        for free in _complement(sorted(excluded, key=lambda i: (i.contig, i.start)), contig_lengths)
        for start in range(free.start, free.end, spec.break_bp)
    ]
    filled_bp = [0] * spec.num_folds
    fold_of: dict[Interval, int] = {}
    for piece in sorted(pieces, key=lambda p: p.start - p.end):  # stable: equal lengths keep genome order
        fold = filled_bp.index(min(filled_bp))
        fold_of[piece] = fold
        filled_bp[fold] += piece.end - piece.start
    if 0 in filled_bp:
        raise InputError(
            f"folds: {len(pieces)} pieces of at most {spec.break_bp} bp cannot fill {spec.num_folds} folds; "
            "lower break_bp"
        )
    roles: dict[int, Split] = {spec.valid_fold: "valid", spec.test_fold: "test"}
    return [Region(piece, roles.get(fold_of[piece], "train"), fold_of[piece]) for piece in pieces]
