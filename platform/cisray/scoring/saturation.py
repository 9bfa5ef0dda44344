"""Lay out the saturation mutagenesis of a window: every base, every other letter."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN
from cisray.scoring.windows import PlacedEdit, WindowEdits


def saturate(
    window: WindowEdits, *, first: int, stop: int, masks_at: Callable[[int], NDArray[np.bool_]]
) -> WindowEdits:
    """Return a window whose edits put every other letter in the place of each of its bases [first, stop).

    They come base by base, the three letters in the order ACGT; where the window has an N, there are none.

    Args:
        window: with any edits; they are left out.
        first: 0-based in the window.
        stop: where the bases end.
        masks_at: the output bins [M, N] that scores read, of a base of the window.

    Raises:
        InputError: bases that are not in the window.
    """
    window_bp = len(window.bases) - 2 * window.flank_bp
    if not 0 <= first < stop <= window_bp:
        raise InputError(f"bases [{first}, {stop}) of a window of {window_bp} bp; wanted one or more that lie in it")
    edits = []
    for base in range(first, stop):
        shown = int(window.bases[window.flank_bp + base])
        if shown == UNKNOWN:
            continue
        masks = masks_at(base)
        edits += [
            PlacedEdit(base, 1, np.array([letter], np.uint8), masks) for letter in range(UNKNOWN) if letter != shown
        ]
    return window._replace(edits=tuple(edits))
