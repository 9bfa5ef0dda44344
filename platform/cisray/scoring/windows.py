"""Place variants in the windows that a model reads, so that what can be computed once is."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import UNKNOWN
from cisray.genome.variants import Variant
from cisray.scoring.alleles import (
    SCORED,
    Bases,
    Edit,
    Flag,
    MismatchPolicy,
    Normal,
    PatchedReference,
    Status,
    classify,
    normalise,
    swapped,
)

MasksOf = Callable[[str, int, Edit], NDArray[np.bool_]]
"""From a contig, a window's start and an edit to the output bins that its scores read, bool [M, N]."""
_EditKey = tuple[int, int, bytes]
_NOWHERE = -1  # the window and the edit of a row without scores


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WindowSpec:
    """Where the windows lie."""

    policy: Literal["centered", "grid"] = "centered"
    """Each variant in the middle of its own window, or the windows of a grid, which variants share."""
    grid_bp: int = 2048
    """Of "grid": distance of the windows' middles; a variant is at most half of it from the middle of its window."""

    def __post_init__(self) -> None:
        if self.grid_bp < 1:
            raise InputError(f"grid_bp={self.grid_bp}; wanted a distance of at least 1 bp")

    def __str__(self) -> str:
        return self.policy if self.policy == "centered" else f"grid={self.grid_bp}"

    def window_start(self, norm_pos: int, *, window_bp: int) -> int:
        """Return the 0-based start of the window that shows a variant; below zero, it begins before the contig."""
        middle = norm_pos - 1
        if self.policy == "grid":
            middle = middle // self.grid_bp * self.grid_bp + self.grid_bp // 2
        return middle - window_bp // 2

    @property
    def most_right_bp(self) -> int:
        """How far right of its window's middle a variant's position can be."""
        return 0 if self.policy == "centered" else self.grid_bp - 1 - self.grid_bp // 2


CENTERED = WindowSpec()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placing:
    """How variants are placed in a model's windows."""

    window_bp: int
    windows: WindowSpec = CENTERED
    max_allele_bp: int = 100
    """Longer alleles are not scored but get the status TOO_LONG."""
    ref_mismatch: MismatchPolicy = "skip"
    shifts: tuple[int, ...] = (0,)
    """By how many bases the windows of the passes are moved to the right; below zero to the left."""

    def __post_init__(self) -> None:
        if self.window_bp < 1 or self.max_allele_bp < 1:
            raise InputError(
                f"window_bp={self.window_bp}, max_allele_bp={self.max_allele_bp}; wanted at least 1 of both"
            )
        grid = self.windows
        room_bp = self.window_bp - self.window_bp // 2 - grid.most_right_bp
        if grid.policy == "grid" and grid.grid_bp > self.window_bp:
            raise InputError(
                f"grid_bp={grid.grid_bp} lets variants lie outside of windows of {self.window_bp} bp; "
                f"set it to {self.window_bp} or less"
            )
        left_bp = self.window_bp // 2 - (0 if grid.policy == "centered" else grid.grid_bp // 2)
        right_bp = room_bp - self.max_allele_bp
        if self.max_allele_bp <= room_bp and not -right_bp <= min(self.shifts) <= max(self.shifts) <= left_bp:
            raise InputError(
                f"shifts={self.shifts} move a variant out of its window of {self.window_bp} bp; wanted shifts from "
                f"{-right_bp} to {left_bp} bp"
            )
        if self.max_allele_bp > room_bp:
            raise InputError(
                f"max_allele_bp={self.max_allele_bp}, but a window of {self.window_bp} bp with the policy {grid} may "
                f"have only {room_bp} bp from the variant on; set max_allele_bp to {room_bp} or less, or a finer grid"
            )

    @property
    def flank_bp(self) -> int:
        """Bases that are read on each side of a window: the longest indel draws them in, and the longest shift."""
        return self.max_allele_bp + max((abs(shift) for shift in self.shifts), default=0)


class PlacedEdit(NamedTuple):
    """An edit within its window."""

    start: int
    """0-based in the window, from 0 to L - 1: the first base that is replaced, or the one that it stands before."""
    removed_bp: int
    inserted: NDArray[np.uint8]
    """Codes [k]."""
    masks: NDArray[np.bool_]
    """Output bins that scores read, [M, N]."""


class WindowEdits(NamedTuple):
    """A window and all that is to be compared with it; no edit is there twice."""

    window_start: int
    """0-based; below zero, N stands before the contig."""
    bases: NDArray[np.uint8]
    """Codes [flank_bp + L + flank_bp]: the window and what lies beside it. They are the reference of every edit here:
    the genome's, or with REF written over them for variants with another REF, whose window is theirs alone."""
    flank_bp: int
    edits: tuple[PlacedEdit, ...]


class _Window:
    """A window while variants are being placed in it."""

    def __init__(self, contig: str, start: int, reference: Bases, placing: Placing) -> None:
        self.contig = contig
        self.start = start
        self.reference = reference
        self.edits: dict[_EditKey, PlacedEdit] = {}
        self._first = start - placing.flank_bp
        is_unknown = self.bases(placing) == UNKNOWN
        # where each stretch of N begins and where it ends, by turns
        self._unknown = np.empty(0, np.int64)
        if is_unknown.any():
            self._unknown = self._first + np.flatnonzero(np.diff(np.r_[False, is_unknown, False]))

    def bases(self, placing: Placing) -> NDArray[np.uint8]:
        """Read the window and its flanks."""
        return self.reference.codes(self.contig, self._first, self.start + placing.window_bp + placing.flank_bp)

    def has_unknown(self, first: int, last: int) -> bool:
        """Tell whether N stands in an interval of the contig that is not empty."""
        index = int(np.searchsorted(self._unknown, first, side="right"))
        return index % 2 == 1 or (index < len(self._unknown) and bool(self._unknown[index] < last))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """What became of R rows, and where those that have scores find them."""

    statuses: list[Status]
    """[R]"""
    normals: list[Normal | None]
    """[R]; None for rows that are not scored. That of a REF_FLIPPED row is the genome's edit, ALT -> REF."""
    flags: NDArray[np.uint16]
    """[R], the bits of `Flag`; 0 for rows that are not scored, like all that follows but the next two."""
    window: NDArray[np.int64]
    """[R], the number of the row's window in `windows`; -1 for rows that are not scored."""
    edit: NDArray[np.int64]
    """[R], the number of the row's edit in its window; -1 for rows that are not scored."""
    window_start: NDArray[np.int64]
    """[R], 0-based."""
    center_offset: NDArray[np.int64]
    """[R], bases from the window's middle (its base window_bp // 2) to norm_pos."""
    num_edits: NDArray[np.int64]
    """Distinct edits of each window, [W]."""
    held: tuple[_Window, ...] = dataclasses.field(repr=False)
    placing: Placing

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Which rows are scored with reference and alternate exchanged, [R]."""
        return np.array([status is Status.REF_FLIPPED for status in self.statuses], bool)

    def windows(self) -> Iterator[WindowEdits]:
        """Read the windows one by one, in the order of their first rows."""
        for window in self.held:
            bases = window.bases(self.placing)
            yield WindowEdits(window.start, bases, self.placing.flank_bp, tuple(window.edits.values()))


def place_variants(
    variants: Sequence[Variant],
    contigs: Sequence[str | None],
    reference: Reference,
    *,
    placing: Placing,
    masks_of: MasksOf,
) -> Placed:
    """Judge R variants in any order, and place those that can be scored in as few windows as the policy allows.

    Alleles that make the same edit are one edit of one window. A variant whose REF is written over the genome's has
    a window of its own, which it shares only with variants of the same position and REF. A row for which `masks_of`
    has no mask gets the status NO_BINS.

    Args:
        variants: the rows.
        contigs: the genome's name of each row's contig; None where it has none.
        reference: the genome.
        placing: how they are placed.
        masks_of: the output bins of each edit, asked once per edit of a window.

    Raises:
        InputError: a REF is not the genome's and the policy is "error".
    """
    statuses: list[Status] = []
    normals: list[Normal | None] = []
    places = np.full((4, len(variants)), _NOWHERE, np.int64)
    places[2:] = 0
    flags = np.zeros(len(variants), np.uint16)
    board = _Board(placing, masks_of)
    for row, (variant, contig) in enumerate(zip(variants, contigs, strict=True)):
        status = classify(
            variant, contig, reference, max_allele_bp=placing.max_allele_bp, ref_mismatch=placing.ref_mismatch
        )
        normal = None
        if status in SCORED:
            assert contig is not None
            shown, background = _as_read(variant, contig, reference, status, placing.ref_mismatch)
            normal = normalise(shown, contig, background)
            place = board.place(contig, normal, background)
            if place is None:
                status, normal = Status.NO_BINS, None
            else:
                places[:, row], flags[row] = place
        statuses.append(status)
        normals.append(normal)
    window, edit, window_start, center_offset = places
    return Placed(
        statuses=statuses,
        normals=normals,
        flags=flags,
        window=window,
        edit=edit,
        window_start=window_start,
        center_offset=center_offset,
        num_edits=np.array([len(window.edits) for window in board.windows], np.int64),
        held=tuple(board.windows),
        placing=placing,
    )


def _as_read(
    variant: Variant, contig: str, reference: Reference, status: Status, policy: MismatchPolicy
) -> tuple[Variant, Bases]:
    """Return a variant that can be scored as it is scored, and the bases that have its REF."""
    if status is Status.REF_FLIPPED:
        return swapped(variant), reference
    start = variant.pos - 1
    if policy != "use_vcf" or variant.ref.upper() == reference.bases(contig, start, start + len(variant.ref)):
        return variant, reference
    return variant, PatchedReference(reference, contig, start, variant.ref)


class _Board:
    """The windows that variants have been placed in so far."""

    def __init__(self, placing: Placing, masks_of: MasksOf) -> None:
        self.windows: list[_Window] = []
        self._placing = placing
        self._masks_of = masks_of
        self._number_of: dict[tuple[str, int, tuple[int, str] | None], int] = {}
        self._edit_of: dict[tuple[int, _EditKey], int] = {}

    def place(self, contig: str, normal: Normal, background: Bases) -> tuple[tuple[int, int, int, int], Flag] | None:
        """Return a variant's window, edit, window start and offset, and its flags; None where it has no mask."""
        spec, window_bp = self._placing.windows, self._placing.window_bp
        start = spec.window_start(normal.norm_pos, window_bp=window_bp)
        written = background.written if isinstance(background, PatchedReference) else None
        number = self._number_of.get((contig, start, written))
        edit_key = normal.edit.key()
        edit = None if number is None else self._edit_of.get((number, edit_key))
        flags = Flag(0) if edit is None else Flag.DEDUPLICATED
        if edit is None:
            masks = self._masks_of(contig, start, normal.edit)
            if not len(masks):
                return None
            if number is None:
                number = self._number_of[contig, start, written] = len(self.windows)
                self.windows.append(_Window(contig, start, background, self._placing))
            window = self.windows[number]
            edit = self._edit_of[number, edit_key] = len(window.edits)
            window.edits[edit_key] = PlacedEdit(
                normal.edit.start - start, normal.edit.removed_bp, normal.edit.inserted, masks
            )
        assert number is not None
        offset = normal.norm_pos - 1 - (start + window_bp // 2)
        flags |= Flag.OFF_CENTRE if offset else Flag(0)
        flags |= Flag.REF_FROM_VCF if written is not None else Flag(0)
        flags |= self._flags_of_bases(self.windows[number], normal.edit)
        return (number, edit, start, offset), flags

    def _flags_of_bases(self, window: _Window, edit: Edit) -> Flag:
        """Tell what a row's forwards read: all windows of its passes, and what a deletion draws in."""
        placing = self._placing
        drawn_in_bp = max(edit.removed_bp - len(edit.inserted), 0)
        first = window.start + min(placing.shifts, default=0)
        last = window.start + placing.window_bp + drawn_in_bp + max(placing.shifts, default=0)
        flags = Flag.INDEL if edit.removed_bp != len(edit.inserted) else Flag(0)
        if first < 0 or last > window.reference.contig_lengths[window.contig]:
            flags |= Flag.EDGE_PADDED
        if window.has_unknown(first, last):
            flags |= Flag.HAS_N
        return flags
