"""When a trial is given up: at rungs, epochs at which it is compared with the trials before it.

A curve is a trial's validation metric after each epoch, the best so far [E]; one that ended early keeps its last value.
A trial is compared with trials of lower number alone, so that who came first does not matter.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError

Curve = Sequence[float]


class Rung:
    """What trials came to at an epoch, in order, so that one more is compared without a look at all of them."""

    def __init__(self) -> None:
        self.trials = 0
        """Trials that came to it, those without a value too."""
        self.values: list[float] = []
        """What those that have a value are compared by, the lowest first."""

    def add(self, value: float) -> None:
        """Count a trial in; NaN where it has no value."""
        self.trials += 1
        if not math.isnan(value):
            bisect.insort(self.values, value)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoStopping:
    """Every trial learns to its end."""

    method: Literal["none"] = "none"

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which a trial stops to be looked at."""
        return [epochs]

    def standing(self, curve: Curve, epoch: int) -> float:
        """Return what a trial is compared by after so many epochs."""
        return value_at(curve, epoch)

    def goes_on(self, own: Curve, earlier: Rung, *, epoch: int) -> bool:
        """Say whether a trial goes on after an epoch."""
        return True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Asha:
    """Successive halving, asynchronous: a rung is passed by the best of those that came to it, one in `factor`."""

    method: Literal["asha"]
    first_epochs: int = 1
    """Epochs before the first rung."""
    factor: int = 3
    """Each rung is so many times later than the one before, and so many times fewer trials pass it."""

    def __post_init__(self) -> None:
        if self.first_epochs < 1 or self.factor < 2:
            raise InputError(
                f"stopping: first_epochs={self.first_epochs}, factor={self.factor}; wanted at least 1 and at least 2"
            )

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which a trial stops to be looked at."""
        found, rung = [], self.first_epochs
        while rung < epochs:
            found.append(rung)
            rung *= self.factor
        return [*found, epochs]

    def standing(self, curve: Curve, epoch: int) -> float:
        """Return what a trial is compared by after so many epochs: its best so far."""
        return value_at(curve, epoch)

    def goes_on(self, own: Curve, earlier: Rung, *, epoch: int) -> bool:
        """Say whether a trial is among the best, one in `factor`, of itself and those before it at this rung."""
        value = value_at(own, epoch)
        if math.isnan(value):
            return False
        better = len(earlier.values) - bisect.bisect_right(earlier.values, value)
        return better < max(1, (earlier.trials + 1) // self.factor)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MedianStopping:
    """A trial ends where its best is below the median of the running means of those before it."""

    method: Literal["median"]
    first_epochs: int = 1
    """Epochs before a trial is first looked at."""
    every_epochs: int = 1
    least_trials: int = 3
    """Trials that must have come as far before one is given up."""

    def __post_init__(self) -> None:
        if min(self.first_epochs, self.every_epochs, self.least_trials) < 1:
            raise InputError(
                f"stopping: first_epochs={self.first_epochs}, every_epochs={self.every_epochs}, "
                f"least_trials={self.least_trials}; wanted at least 1 of each"
            )

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which a trial stops to be looked at."""
        return [*range(self.first_epochs, epochs, self.every_epochs), epochs]

    def standing(self, curve: Curve, epoch: int) -> float:
        """Return what others are compared with after so many epochs: the mean of the best so far over them."""
        return sum(value_at(curve, each) for each in range(1, epoch + 1)) / epoch

    def goes_on(self, own: Curve, earlier: Rung, *, epoch: int) -> bool:
        """Say whether a trial is no worse than the median of those before it."""
        value = value_at(own, epoch)
        if math.isnan(value):
            return False
        return earlier.trials < self.least_trials or not earlier.values or value >= _middle(earlier.values)


Stopping = Annotated[NoStopping | Asha | MedianStopping, Field(discriminator="method")]


def value_at(curve: Curve, epoch: int) -> float:
    """Return a curve's value after so many epochs; a curve that ended before keeps its last."""
    return curve[min(epoch, len(curve)) - 1] if curve else math.nan


def _middle(ordered: Sequence[float]) -> float:
    """Return the median of values in order."""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
