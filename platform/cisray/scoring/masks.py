"""Say which output bins of a window a score reads.

| mask | bins |
|---|---|
| crop | all that the model predicts |
| center(501) | ceil(501 / bin_bp) bins, the variant's in the middle; of an even number, one more lies to its left |
| gene(exon), gene(span) | those with at least half their bases in a gene's exons, or in its span; one mask per gene |
| bed(FILE) | those with at least half their bases in the intervals of a BED file |

center is AlphaGenome's rule: every variant is measured over equally many bins, and a width below one bin is the
variant's bin. The majority of bases is the rule of Borzoi's gene scores, here over all of a gene's exons together.
A mask may keep no bin (a variant beyond the crop, exons shorter than half a bin): its row then has a status, no score.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.loci.regions import Spans
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, overlap_bp
from cisray.geometry import Geometry

_MASK = re.compile(r"(?P<kind>crop|center|gene|bed)(\((?P<argument>.*)\))?")
_WANTED = "wanted crop, center(501), gene(exon), gene(span) or bed(FILE)"


class BinMask(NamedTuple):
    """Which output bins a score reads, as a job says it."""

    kind: Literal["crop", "center", "gene", "bed"]
    argument: str = ""
    """A width in bases, "exon" or "span", or a file."""

    def __str__(self) -> str:
        return f"{self.kind}({self.argument})" if self.argument else self.kind

    @property
    def of_genes(self) -> bool:
        """Whether there is one mask per gene."""
        return self.kind == "gene"


class Intervals(Protocol):
    """Stretches of one contig, 0-based half-open: a `Spans`, or anything with starts and ends."""

    @property
    def start(self) -> NDArray[np.int64]:
        """First bases, [M]."""

    @property
    def end(self) -> NDArray[np.int64]:
        """Behind the last bases, [M]."""


def parse_mask(text: str) -> BinMask:
    """Read a mask as a job writes it; raise InputError that lists what there is."""
    found = _MASK.fullmatch(text.strip())
    if found is None:
        raise InputError(f"mask {text!r}: {_WANTED}")
    kind, argument = found["kind"], (found["argument"] or "").strip()
    is_known = {
        "crop": argument == "" and found["argument"] is None,
        "center": re.fullmatch("[1-9][0-9]{0,8}", argument) is not None,
        "gene": argument in ("exon", "span"),
        "bed": argument != "",
    }
    if not is_known[kind]:
        raise InputError(f"mask {text!r}: {_WANTED}")
    return BinMask(kind, argument)  # type: ignore[arg-type]


def make_masks(
    mask: BinMask, *, window_start: int, position: int, geometry: Geometry, regions: Sequence[Intervals] = ()
) -> NDArray[np.bool_]:
    """Return which bins of a window each of a variant's masks keeps, bool [M, N].

    Args:
        mask: which bins.
        window_start: 0-based, of the window's first base; may be negative.
        position: 0-based, of the variant's first base.
        geometry: of the model.
        regions: on the window's contig, for gene(...) the exons or the span of each gene near the window [M], for
            bed(...) the file's intervals as the only one.

    Raises:
        InputError: a mask of a file has not exactly one region.
    """
    if mask.kind == "crop":
        return np.ones((1, geometry.num_bins), np.bool_)
    if mask.kind == "center":
        return _center(int(mask.argument), window_start=window_start, position=position, geometry=geometry)[None]
    if mask.kind == "bed" and len(regions) != 1:
        raise InputError(f"mask {mask}: {len(regions)} regions; wanted the intervals of the window's contig as one")
    masks = [_majority(region, window_start=window_start, geometry=geometry) for region in regions]
    return np.stack(masks) if masks else np.empty((0, geometry.num_bins), np.bool_)


def offsets_of_kept(
    mask: NDArray[np.bool_], *, window_start: int, position: int, geometry: Geometry
) -> NDArray[np.int64]:
    """Return how many bases lie from a position to the first base of each bin that a mask [N] keeps, [K].

    To the right they count from 0 up. `window_start` and `position` are 0-based.
    """
    return window_start + geometry.crop_bp + geometry.bin_bp * np.flatnonzero(mask) - position


def unseen_bp(regions: Sequence[Intervals], *, window_start: int, geometry: Geometry) -> NDArray[np.int64]:
    """Return how many bases of each region lie beyond the bins that a window predicts, [M]."""
    first = window_start + geometry.crop_bp
    unseen = []
    for region in regions:
        start, end = _merged(region)
        inside = np.clip(end, first, first + geometry.target_bp) - np.clip(start, first, first + geometry.target_bp)
        unseen.append(int((end - start - inside).sum()))
    return np.array(unseen, np.int64)


def _center(width_bp: int, *, window_start: int, position: int, geometry: Geometry) -> NDArray[np.bool_]:
    keeps = np.zeros(geometry.num_bins, np.bool_)
    bin_of_variant = (position - window_start - geometry.crop_bp) // geometry.bin_bp
    if 0 <= bin_of_variant < geometry.num_bins:
        num_kept = -(-width_bp // geometry.bin_bp)
        first = bin_of_variant - num_kept // 2
        keeps[max(first, 0) : first + num_kept] = True
    return keeps


def _majority(region: Intervals, *, window_start: int, geometry: Geometry) -> NDArray[np.bool_]:
    bin_start = window_start + geometry.crop_bp + geometry.bin_bp * np.arange(geometry.num_bins)
    start, end = _merged(region)
    # of a file's many intervals, only those near the window
    near = slice(
        np.searchsorted(end, bin_start[0], side="right"), np.searchsorted(start, bin_start[0] + geometry.target_bp)
    )
    covered = overlap_bp(start[near], end[near], of_start=bin_start, of_end=bin_start + geometry.bin_bp)
    return 2 * covered >= geometry.bin_bp


def _merged(region: Intervals) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a region's stretches in order, none overlapping or touching another."""
    start, end = np.asarray(region.start, np.int64), np.asarray(region.end, np.int64)
    if isinstance(region, Spans) or (start[1:] > end[:-1]).all():
        return start, end
    order = np.argsort(start, kind="stable")
    return merge_intervals(start[order], end[order])
