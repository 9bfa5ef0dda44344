"""Score a few edits of a run again by full forwards, and stop a run whose scores these do not confirm."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.scoring.lanes import Lane, Slot
from cisray.scoring.passes import frame_of
from cisray.scoring.windows import WindowEdits

ROUNDING = 2.0**-20
"""What predictions may lie apart, as a share of themselves, whatever the tolerance: eight roundings of float32."""

Values = Mapping[str, NDArray[np.float32]]


class SpotCheck:
    """A sample of a run's edits, each as likely as any other, with the scores that were found for them."""

    def __init__(self, *, rows: int, seed: int) -> None:
        self.rows = rows
        self.largest: dict[str, float] = {}
        """Per score, the largest |score| of the run: the scale on which differences count."""
        self._random = random.Random(seed)
        self._seen = 0
        self._sample: list[tuple[WindowEdits, Values]] = []

    def see(self, slot: Slot, values: Values) -> None:
        """Take the edits of a window that was scored into the draw."""
        for name, found in values.items():
            self.largest[name] = max(self.largest.get(name, 0.0), float(np.abs(found).max(initial=0.0)))
        for number, edit in enumerate(slot.window.edits):
            self._seen += 1
            place = len(self._sample) if self._seen <= self.rows else self._random.randrange(self._seen)
            if place < self.rows:
                mine = slice(slot.offsets[number], slot.offsets[number + 1])
                one = slot.window._replace(edits=(edit,)), {name: found[mine] for name, found in values.items()}
                self._sample[place : place + 1] = [one]

    def run(self, lanes: Sequence[Lane], *, tolerance: float) -> dict[str, float]:
        """Score the sample by lanes of full forwards; return per score the largest difference, as a share.

        Raises InputError where one exceeds the tolerance, a share of the run's largest score.
        """
        shares = dict.fromkeys(self.largest, 0.0)
        for window, values in self._sample:
            slot = Slot(window, passes=len(lanes))
            for lane in lanes:
                lane.add(slot)
                lane.flush()
            rounding = _rounding(window, lanes[0])
            for name in self.largest:
                difference = float(np.abs(slot.sums[name].cpu().numpy() - values[name]).max())
                if self.largest[name]:
                    shares[name] = max(shares[name], difference / self.largest[name])
                if difference > tolerance * self.largest[name] + rounding[name]:
                    raise InputError(
                        f"window at {window.window_start}, base {window.edits[0].start}: two full forwards score "
                        f"{name} {difference:.2g} apart from what was found; wanted at most {tolerance:g} of the "
                        f"largest score, {self.largest[name]:.2g}; score in float32 without compile, or with a wider "
                        "tolerance"
                    )
        return shares


def _rounding(window: WindowEdits, lane: Lane) -> dict[str, float]:
    """Return how far each score moves where all of a window's predictions do by a few roundings."""
    (reference,) = lane.trunk.references([frame_of(window, lane.reading)], reverse=lane.reading.reverse)
    predictions = reference.predictions[None]
    masks = torch.from_numpy(window.edits[0].masks)
    rows = torch.zeros(len(masks), dtype=torch.long)
    moved = lane.measure(predictions, predictions * (1 + ROUNDING), masks, rows)
    same = lane.measure(predictions, predictions, masks, rows)
    return {name: float((values - same[name]).abs().max()) for name, values in moved.items()}
