"""Passes over windows that need not be held: what every part of them comes to is added up."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.windows import Windows

Sums = Mapping[str, NDArray[np.float64]]
"""What some windows come to, by name; of all windows it is the sum."""
Pass = Callable[[Callable[[Windows], Sums]], Sums]
"""Calls a picklable function on every part of the windows, here or elsewhere, and adds up what it returns."""


def add_up(parts: Iterable[Sums]) -> Sums:
    """Add up the sums of all parts, of which there is at least one, in their order."""
    total: dict[str, NDArray[np.float64]] = {}
    for part in parts:
        total = {name: total[name] + values if total else values for name, values in part.items()}
    assert total, "a pass over no windows"
    return total


def pass_over(*parts: Windows) -> Pass:
    """Return a pass over windows that are held."""
    return partial(_call_on_each, parts)


def _call_on_each(parts: Iterable[Windows], function: Callable[[Windows], Sums]) -> Sums:
    return add_up(map(function, parts))
