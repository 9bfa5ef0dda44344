"""Make an alternate's `local` outputs of what is known: the reference's, those of a shifted window, and a patch.

Left and right of an edit, an alternate's window is the reference's, moved by some bases. There its outputs are those of
the reference, or of the reference's window read that many bases further: made once per window and shift, for all indels
of that length. Only the bins around the edit are made anew.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cisray.models.reach import Patch, Reach, patch_around
from cisray.scoring.passes import Alternate, Frame, unchanged

PARTS = 16
"""A shifted window is read from one of so many places on."""
Embed = Callable[[Tensor], tuple[Tensor, ...]]
"""From codes uint8 [B, L] to the outputs of `local`, finest resolution first, [B, C, N] each."""


class Reference:
    """What is known of a window as a pass reads it."""

    def __init__(self, frame: Frame, outputs: tuple[Tensor, ...], predictions: Tensor) -> None:
        self.frame = frame
        self.outputs = outputs
        """Of `local`, [C, N] each."""
        self.predictions = predictions
        """[N, T], on the forward strand."""
        self.kept: tuple[Sequence[Tensor], int] = (), 0
        """What `narrow.widen` and the tail read, of all windows predicted together, and which of them this one is."""
        self.moved: dict[tuple[int, str], tuple[int, tuple[Tensor, ...]]] = {}
        """Per shift of the window and side of an edit: up to or from which base it was read, and what `local` said."""


class Row(NamedTuple):
    """A row of a batch."""

    reference: Reference
    alternate: Alternate


class Patched(NamedTuple):
    """The bins that an edit touches, made anew."""

    patch: Patch
    outputs: tuple[Tensor, ...]
    """Of `local` over the patch, [C, N] each."""


def changed_bp(rows: Sequence[Row]) -> int:
    """Return the least length that holds the edit of every row: a power of two, so that shapes repeat."""
    longest = max(stop - first for first, stop in (row.alternate.changed() for row in rows))
    return min(1 << (longest - 1).bit_length(), len(rows[0].alternate.codes))


def embed_patches(rows: Sequence[Row], reaches: tuple[Reach, ...], embed: Embed) -> list[Patched]:
    """Make the bins anew that the edits touch, all patches of one length in one call."""
    length = changed_bp(rows)
    patches, codes = [], []
    for row in rows:
        whole = row.alternate.codes
        first, stop = row.alternate.changed(at_least_bp=length)
        patch = patch_around(reaches, first, window_bp=len(whole), changed_bp=stop - first)
        patches.append(patch)
        codes.append(whole[patch.start_bp : patch.end_bp])
    made: list[Patched | None] = [None] * len(rows)
    # at the end of a window that its bins do not fill, a patch is shorter
    for size in {len(each) for each in codes}:
        members = [number for number, each in enumerate(codes) if len(each) == size]
        outputs = embed(torch.from_numpy(np.stack([codes[member] for member in members])))
        for index, member in enumerate(members):
            made[member] = Patched(patches[member], tuple(level[index] for level in outputs))
    return [each for each in made if each is not None]


def embed_unchanged(rows: Sequence[Row], reaches: tuple[Reach, ...], embed: Embed) -> list[Patched | None]:
    """Make the reference's bins anew where an edit moves no base, as `embed_patches` makes its alternate's.

    A patch is rounded otherwise than a window, by more than what a small effect leaves of it; two patches of one shape
    are rounded alike. Null variants go without, and so tell how far a patch alone lies from the window.
    """
    unedited = [Row(row.reference, unchanged(row.reference.frame, row.alternate)) for row in rows]
    needed = [
        not (row.alternate.left_bp or row.alternate.right_bp)
        and not np.array_equal(row.alternate.codes, before.alternate.codes)
        for row, before in zip(rows, unedited, strict=True)
    ]
    if not any(needed):
        return [None] * len(rows)
    made = embed_patches(unedited, reaches, embed)
    return [each if wanted else None for each, wanted in zip(made, needed, strict=True)]


def assemble(
    rows: Sequence[Row],
    patched: Sequence[Patched],
    before: Sequence[Patched | None],
    reaches: tuple[Reach, ...],
    embed: Embed,
) -> tuple[Tensor, ...]:
    """Return the `local` outputs of all alternates, [B, C, N] each.

    Where a patch of the reference itself is known, what the alternate's adds to it is added to the reference's window.
    """
    firsts = rows[0].reference.outputs
    wholes = tuple(torch.empty((len(rows), *level.shape), dtype=level.dtype, device=level.device) for level in firsts)
    for index, (row, made, old) in enumerate(zip(rows, patched, before, strict=True)):
        bins = [touched(made, level, whole.shape[2]) for level, whole in enumerate(wholes)]
        left = _left_of(row, bins, reaches, embed)
        right = _right_of(row, bins, reaches, embed)
        for level, (whole, (first, stop)) in enumerate(zip(wholes, bins, strict=True)):
            offset = made.patch.offsets[level]
            whole[index, :, :first] = left[level][:, :first]
            anew = made.outputs[level][:, first - offset : stop - offset]
            if old is not None:
                anew = row.reference.outputs[level][:, first:stop] + (
                    anew - old.outputs[level][:, first - offset : stop - offset]
                )
            whole[index, :, first:stop] = anew
            whole[index, :, stop:] = right[level][:, right[level].shape[1] - (whole.shape[2] - stop) :]
    return wholes


def touched(made: Patched, level: int, num_bins: int) -> tuple[int, int]:
    """Return the bins [first, stop) that an edit touches, of as many as there are."""
    first, stop = made.patch.bins[level]
    return min(first, num_bins), min(stop, num_bins)


def _left_of(row: Row, bins: Sequence[tuple[int, int]], reaches: tuple[Reach, ...], embed: Embed) -> tuple[Tensor, ...]:
    """Return outputs that begin at the window's first bin and reach at least to the first that is touched."""
    reference, moved_bp = row.reference, row.alternate.left_bp
    if moved_bp == 0:
        return reference.outputs
    ends = [reach.bases_seen(0, first)[1] for reach, (first, _) in zip(reaches, bins, strict=True) if first]
    end = _rounded(max(ends, default=0), reference.frame, reaches, up=True)
    known = reference.moved.get((moved_bp, "left"))
    if known is None or known[0] < end:
        known = end, _embed_part(reference, 0, end, moved_bp, embed)
        reference.moved[moved_bp, "left"] = known
    return known[1]


def _right_of(
    row: Row, bins: Sequence[tuple[int, int]], reaches: tuple[Reach, ...], embed: Embed
) -> tuple[Tensor, ...]:
    """Return outputs that end at the window's last bin and reach at least back to the last that is touched."""
    reference, moved_bp = row.reference, row.alternate.right_bp
    if moved_bp == 0:
        return reference.outputs
    window_bp = reference.frame.window_bp
    starts = [reach.bases_seen(stop, stop + 1)[0] for reach, (_, stop) in zip(reaches, bins, strict=True)]
    begin = _rounded(min(starts), reference.frame, reaches, up=False)
    known = reference.moved.get((moved_bp, "right"))
    if known is None or known[0] > begin:
        known = begin, _embed_part(reference, begin, window_bp, moved_bp, embed)
        reference.moved[moved_bp, "right"] = known
    return known[1]


def _rounded(base: int, frame: Frame, reaches: tuple[Reach, ...], *, up: bool) -> int:
    """Return a base further out, inside the window: a whole coarsest bin, and one of few, so that shapes repeat."""
    coarsest = max(reach.stride_bp for reach in reaches)
    step = max(coarsest, frame.window_bp // PARTS // coarsest * coarsest)
    least = max(reach.end_bp - reach.start_bp for reach in reaches)  # what one bin reads
    least = -(-least // coarsest) * coarsest
    if up:
        return min(frame.window_bp, max(-(-base // step) * step, least))
    last = max(0, frame.window_bp - least) // step * step
    return min(max(0, base // step * step), last)


def _embed_part(reference: Reference, first: int, stop: int, moved_bp: int, embed: Embed) -> tuple[Tensor, ...]:
    codes = torch.from_numpy(reference.frame.part(first, stop, moved_bp=moved_bp)[None])
    return tuple(level[0] for level in embed(codes))
