"""Lay edits into windows as a pass reads them: shifted, on either strand, and anchored on either side."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN, reverse_complement
from cisray.scoring.windows import PlacedEdit, WindowEdits


class Pass(NamedTuple):
    """One reading of a window; scores are the mean over the passes."""

    shift_bp: int
    """How far to the right of its place the window is read; the bins that scores read stay."""
    reverse: bool
    """Whether the window is read on the other strand."""


class Alternate(NamedTuple):
    """An edited window: its own bases between two parts that are the reference's, each moved by some bases."""

    codes: NDArray[np.uint8]
    """[L]"""
    first: int
    stop: int
    """The bases [first, stop) are the edit's own; none of a deletion, whose junction lies before base `first`."""
    left_bp: int
    """Base p before `first` is base p + left_bp of the reference's window."""
    right_bp: int
    """Base p from `stop` on is base p + right_bp of the reference's window."""

    def turned(self) -> Self:
        """Return the same on the other strand."""
        length = len(self.codes)
        return type(self)(
            reverse_complement(self.codes), length - self.stop, length - self.first, -self.right_bp, -self.left_bp
        )

    def changed(self, *, at_least_bp: int = 1) -> tuple[int, int]:
        """Return bases [first, stop) inside the window that hold the edit and its junction, of a least length."""
        length = len(self.codes)
        first = max(0, min(self.first, length - at_least_bp))
        return first, max(first + at_least_bp, min(self.stop, length))


class Frame(NamedTuple):
    """The bases around a window, in the direction and from the place that a pass reads them."""

    bases: NDArray[np.uint8]
    """Codes of the window and of both its flanks."""
    origin: int
    """Where among them the window begins."""
    window_bp: int

    def window(self) -> NDArray[np.uint8]:
        """Return the window [L]."""
        return self.part(0, self.window_bp)

    def part(self, first: int, stop: int, *, moved_bp: int = 0) -> NDArray[np.uint8]:
        """Return the bases [first, stop) of the window that lies so far to the right, N where none are known."""
        start, end = (self.origin + moved_bp + base for base in (first, stop))
        known = self.bases[max(0, start) : end]
        return np.pad(known, (max(0, -start), max(0, end - len(self.bases))), constant_values=UNKNOWN)


def frame_of(window: WindowEdits, reading: Pass) -> Frame:
    """Return the bases as a pass reads them; raise InputError where the flanks are too short for its shift."""
    window_bp = len(window.bases) - 2 * window.flank_bp
    if abs(reading.shift_bp) > window.flank_bp:
        raise InputError(
            f"a window at {window.window_start} comes with flanks of {window.flank_bp} bp, which a shift of "
            f"{reading.shift_bp} bp exceeds; give flanks of the largest shift and the longest indel together"
        )
    if reading.reverse:
        return Frame(reverse_complement(window.bases), window.flank_bp - reading.shift_bp, window_bp)
    return Frame(window.bases, window.flank_bp + reading.shift_bp, window_bp)


def lay(window: WindowEdits, edit: PlacedEdit, reading: Pass, *, anchor: str = "left") -> Alternate:
    """Edit a window as a pass reads it.

    An indel anchored "left" moves the bases to its right, one anchored "right" those to its left: real bases are drawn
    in, or pushed out, at that end of the window.

    Raises InputError for an edit that does not lie in the window, or flanks that have too few bases to draw in.
    """
    window_bp = len(window.bases) - 2 * window.flank_bp
    start, removed, inserted = int(edit.start) - reading.shift_bp, int(edit.removed_bp), len(edit.inserted)
    if start < 0 or start + max(removed, 1) > window_bp or inserted > window_bp:
        raise InputError(
            f"window at {window.window_start}: an edit of {removed} bp for {inserted} bp at base {start} of {window_bp}"
            f" (shift {reading.shift_bp} bp); wanted edits inside the window in every shift"
        )
    at = window.flank_bp + start + reading.shift_bp  # among `bases`
    before, after = window.bases[:at], window.bases[at + removed :]
    moved = inserted - removed
    if anchor == "left":
        num_left, num_right = start, max(0, window_bp - start - inserted)
        shifts = (0, -moved)
    else:
        num_left, num_right = max(0, start - moved), window_bp - start - removed
        shifts = (moved, 0)
    if num_left > len(before) or num_right > len(after):
        raise InputError(
            f"window at {window.window_start}: an edit of {removed} bp for {inserted} bp draws in more bases than its "
            f"flanks of {window.flank_bp} bp hold; give flanks of the largest shift and the longest indel together"
        )
    if anchor == "left":
        kept = edit.inserted[: window_bp - num_left]
    else:
        kept = edit.inserted[max(0, inserted - (window_bp - num_right)) :]
    codes = np.concatenate([before[len(before) - num_left :], kept, after[:num_right]])
    alternate = Alternate(codes, num_left, num_left + len(kept), *shifts)
    return alternate.turned() if reading.reverse else alternate


def unchanged(frame: Frame, like: Alternate) -> Alternate:
    """Return the reference as an alternate whose edit, where another has its own, changes nothing."""
    return Alternate(frame.window(), like.first, like.stop, 0, 0)
