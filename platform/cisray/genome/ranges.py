"""Write many ranges of numbers one behind another, without a loop over them."""

import numpy as np
from numpy.typing import NDArray


def join_ranges(start: NDArray[np.integer], count: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the numbers of ranges that begin at `start` [M] and hold `count` [M] each, one range after another."""
    before = np.cumsum(count) - count
    numbers: NDArray[np.int64] = np.repeat(start - before, count) + np.arange(int(count.sum()))
    return numbers
