"""Fill batches of one shape with the alternates of many windows, and measure what they change.

A lane is one model and one pass. Windows enter it, their references are predicted, and their alternates wait until a
batch is full; the last row of each is a null variant, whose alternate is its reference.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.scoring.passes import Pass, frame_of, lay, unchanged
from cisray.scoring.patches import Reference, Row
from cisray.scoring.tails import Bins, cut_bins
from cisray.scoring.trunks import Trunk
from cisray.scoring.windows import PlacedEdit, WindowEdits

MeasureOf = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]
"""From reference and alternate predictions [B, N, T], masks bool [R, N] and the pair of each mask, int [R], to scores
[R, T] by name; both masks and pairs are on the host."""
IndelAlign = Literal["none", "ref_coords", "stitch"]


class Slot:
    """A window, and the sums of its scores over the passes that are done."""

    def __init__(self, window: WindowEdits, *, passes: int) -> None:
        self.window = window
        self.sums: dict[str, Tensor] = {}
        """Per score [sum of M, T], on the device."""
        self.offsets = np.cumsum([0, *(len(edit.masks) for edit in window.edits)]).tolist()
        self.missing = len(window.edits) * passes
        self.passes = passes

    def add(self, edit: int, scores: dict[str, Tensor]) -> None:
        """Add the scores [M, T] of one edit in one pass."""
        for name, values in scores.items():
            if name not in self.sums:
                self.sums[name] = values.new_zeros((self.offsets[-1], values.shape[1]))
            self.sums[name][self.offsets[edit] : self.offsets[edit + 1]] += values / self.passes
        self.missing -= 1


class Job(NamedTuple):
    """An edit to be scored: one row of a batch, or two of which the predictions are joined."""

    slot: Slot
    edit: int
    rows: tuple[Row, ...]

    @property
    def placed(self) -> PlacedEdit:
        """The edit itself."""
        return self.slot.window.edits[self.edit]


class LaneSpec(NamedTuple):
    """What all lanes of an engine have in common."""

    batch_size: int
    reference_rows: int
    """Windows whose references are predicted at once."""
    indel_align: IndelAlign
    geometry: Geometry
    nulls: bool
    """Whether batches are filled up to one size and end with a null variant."""


class Lane:
    """One model and one pass."""

    def __init__(self, trunk: Trunk, reading: Pass, spec: LaneSpec, measure: MeasureOf) -> None:
        self.trunk = trunk
        self.reading = reading
        self.spec = spec
        self.measure = measure
        self.noise: dict[str, Tensor] = {}
        """Per score the largest |score| of a null variant, on the device."""
        self._arriving: list[Slot] = []
        self._waiting: dict[bool, list[Job]] = {True: [], False: []}

    def add(self, slot: Slot) -> None:
        """Let a window enter."""
        self._arriving.append(slot)
        if len(self._arriving) >= self.spec.reference_rows:
            self._predict_references()
            for waiting in self._waiting.values():
                while sum(len(job.rows) for job in waiting) >= self.spec.batch_size:
                    self._score_next(waiting)

    def flush(self) -> None:
        """Score all that waits."""
        self._predict_references()
        for waiting in self._waiting.values():
            while waiting:
                self._score_next(waiting)

    def _predict_references(self) -> None:
        slots, self._arriving = self._arriving, []
        if not slots:
            return
        frames = [frame_of(slot.window, self.reading) for slot in slots]
        references = self.trunk.references(frames, reverse=self.reading.reverse)
        for slot, reference in zip(slots, references, strict=True):
            for edit in range(len(slot.window.edits)):
                rows = self._rows_of(slot.window, slot.window.edits[edit], reference)
                self._waiting[all(map(self.trunk.is_narrow, rows))].append(Job(slot, edit, rows))

    def _rows_of(self, window: WindowEdits, edit: PlacedEdit, reference: Reference) -> tuple[Row, ...]:
        stitched = self.spec.indel_align == "stitch" and len(edit.inserted) != edit.removed_bp
        anchors = ("left", "right") if stitched else ("left",)
        return tuple(Row(reference, lay(window, edit, self.reading, anchor=anchor)) for anchor in anchors)

    def _score_next(self, waiting: list[Job]) -> None:
        """Score as many of the jobs as a batch holds, and take them off the list."""
        jobs: list[Job] = []
        room = self.spec.batch_size - self.spec.nulls
        while waiting and len(waiting[0].rows) <= room:
            jobs.append(waiting.pop(0))
            room -= len(jobs[-1].rows)
        rows = [row for job in jobs for row in job.rows]
        if self.spec.nulls:
            null = Row(rows[0].reference, unchanged(rows[0].reference.frame, rows[0].alternate))
            rows += [rows[0]] * room + [null]
        bins = self._bins_of(jobs, len(rows))
        alternate = self.trunk.alternates(rows, bins, reverse=self.reading.reverse)
        reference = cut_bins([row.reference.predictions for row in rows], bins)
        alternate = self._aligned(jobs, bins, reference, alternate)
        self._measure(jobs, bins, reference, alternate)

    def _bins_of(self, jobs: Sequence[Job], num_rows: int) -> Bins:
        """Return the bins that the masks of each row keep, one width for all; of rows without job, the first's.

        What is aligned base by base needs them all.
        """
        num_bins = self.spec.geometry.num_bins
        spans = []
        for job in jobs:
            kept = np.flatnonzero(job.placed.masks.any(axis=0))
            if job.placed.masks.shape[1] != num_bins or not kept.size:
                raise InputError(
                    f"window at {job.slot.window.window_start}: masks {job.placed.masks.shape} of edit {job.edit} keep "
                    f"{kept.size} bins; wanted at least one of {num_bins}"
                )
            spans += [(int(kept[0]), int(kept[-1]) + 1)] * len(job.rows)
        spans += [spans[0]] * (num_rows - len(spans))
        most = -(-max(stop - start for start, stop in spans) // 8) * 8  # few widths, so that shapes repeat
        moves = self.spec.indel_align == "ref_coords" and any(_moved_bp(job.placed) for job in jobs)
        if most >= num_bins or moves:
            return Bins([0] * len(spans), num_bins)
        return Bins([min(start, num_bins - most) for start, _ in spans], most)

    def _aligned(self, jobs: Sequence[Job], bins: Bins, reference: Tensor, alternate: Tensor) -> Tensor:
        """Put the alternates' predictions, in place, where the reference's stand."""
        align, geometry = self.spec.indel_align, self.spec.geometry
        row = 0
        for job in jobs:
            edit = job.placed
            if _moved_bp(edit) and align != "none":
                start = edit.start - self.reading.shift_bp
                if align == "stitch":
                    cut = start // geometry.bin_bp - geometry.crop_bins + 1 - bins.starts[row]
                    cut = min(max(cut, 0), bins.width)
                    alternate[row, cut:] = alternate[row + 1, cut:]
                else:
                    place = edit._replace(start=start - geometry.crop_bins)
                    alternate[row] = in_reference_coordinates(alternate[row], reference[row], place)
            row += len(job.rows)
        return alternate

    def _measure(self, jobs: Sequence[Job], bins: Bins, reference: Tensor, alternate: Tensor) -> None:
        masks: list[NDArray[np.bool_]] = []
        pairs: list[int] = []
        row = 0
        for job in jobs:
            masks.append(job.placed.masks[:, bins.starts[row] : bins.starts[row] + bins.width])
            pairs += [row] * len(job.placed.masks)
            row += len(job.rows)
        if self.spec.nulls:
            masks.append(masks[0][:1])
            pairs.append(len(alternate) - 1)
        scores = self.measure(reference, alternate, torch.from_numpy(np.concatenate(masks)), torch.tensor(pairs))
        if self.spec.nulls:
            for name, values in scores.items():
                of_null = values[-1].abs().max()
                self.noise[name] = torch.maximum(self.noise[name], of_null) if name in self.noise else of_null
        begin = 0
        for job, mask in zip(jobs, masks, strict=False):
            job.slot.add(job.edit, {name: values[begin : begin + len(mask)] for name, values in scores.items()})
            begin += len(mask)


def _moved_bp(edit: PlacedEdit) -> int:
    return len(edit.inserted) - edit.removed_bp


def in_reference_coordinates(alternate: Tensor, reference: Tensor, edit: PlacedEdit) -> Tensor:
    """Map predictions of every base, [N, T], of an alternate anchored at its left, to the reference's bases.

    A base that is removed gets zero. Inserted bases are one with the base that they replace last, or without any with
    the base before them: it gets the largest of all. Bases that an insertion pushes out of the window have no
    prediction in the alternate and keep that of the reference, as if the edit did nothing there.
    """
    num_bins = len(alternate)
    removed, inserted = edit.removed_bp, len(edit.inserted)
    aligned = reference.clone()

    def put(first: int, stop: int, taken_from: int) -> None:
        low = max(0, first, first - taken_from)
        high = min(stop, num_bins, num_bins + first - taken_from)
        if low < high:
            aligned[low:high] = alternate[low - first + taken_from : high - first + taken_from]

    shared = min(removed, inserted)
    put(0, edit.start + shared, 0)
    aligned[max(0, edit.start + shared) : max(0, edit.start + removed)] = 0
    base = edit.start + shared - 1
    if inserted > removed and 0 <= base < num_bins:
        aligned[base] = alternate[base : edit.start + inserted].amax(dim=0)
    put(edit.start + removed, num_bins, edit.start + inserted)
    return aligned
