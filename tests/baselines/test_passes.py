import pickle

import numpy as np
import pytest

from cisray.baselines.passes import add_up, pass_over
from cisray.baselines.windows import Windows


def count(windows):
    return {"windows": np.array(float(len(windows.codes))), "tracks": np.nansum(windows.targets, axis=0)}


def test_what_all_parts_come_to_is_their_sum():
    targets = np.array([[1, 2], [3, np.nan], [5, 6]], np.float32)
    parts = [Windows(np.zeros((len(part), 4), np.uint8), part) for part in (targets[:1], targets[1:])]
    look = pickle.loads(pickle.dumps(pass_over(*parts)))
    for _ in range(2):  # more than once
        sums = look(count)
        assert sums["windows"] == 3
        assert sums["tracks"].tolist() == [9, 8]


def test_sums_are_not_added_to_in_place():
    part = {"a": np.ones(2)}
    assert add_up([part, part, part])["a"].tolist() == [3, 3]
    assert part["a"].tolist() == [1, 1]
    assert add_up(iter([part])) == part


def test_a_pass_needs_windows():
    with pytest.raises(AssertionError, match="a pass over no windows"):
        add_up([])
