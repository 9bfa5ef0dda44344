import numpy as np
import pytest

from cisray.errors import InputError
from cisray.genome.sequence import decode, encode
from cisray.scoring.saturation import saturate
from cisray.scoring.windows import WindowEdits

WINDOW = WindowEdits(10, encode("TT" + "ANGC" + "TT"), 2, ())


def test_every_base_gets_every_other_letter():
    masks = np.ones((1, 2), bool)
    found = saturate(WINDOW, first=0, stop=4, masks_at=lambda base: masks * (base < 9))
    assert [(edit.start, edit.removed_bp, decode(edit.inserted)) for edit in found.edits] == [
        *[(0, 1, letter) for letter in "CGT"],
        *[(2, 1, letter) for letter in "ACT"],
        *[(3, 1, letter) for letter in "AGT"],
    ]
    assert all(edit.masks.all() for edit in found.edits)
    assert found.window_start == 10


@pytest.mark.parametrize(("first", "stop"), [(-1, 2), (2, 2), (1, 5)])
def test_bases_outside_the_window_are_told(first, stop):
    with pytest.raises(InputError, match=rf"bases \[{first}, {stop}\) of a window of 4 bp; wanted one or more"):
        saturate(WINDOW, first=first, stop=stop, masks_at=lambda _: np.ones((1, 1), bool))
