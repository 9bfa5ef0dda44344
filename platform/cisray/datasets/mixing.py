"""Which of several datasets each step of an epoch reads: every example once, or each dataset by its weight.

The steps of the datasets are interleaved as evenly as can be, and nothing is drawn at random: whoever knows the epoch
and the steps done knows what was read and what comes next, and so do all ranks of a training.

Without weights, an epoch reads each dataset's own epoch of the same number once. With weights, an epoch has as many
steps as all datasets together, shared out by weight; a dataset that ends begins its own next epoch, and goes on from
there in the next epoch of the mixture.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

from cisray.errors import InputError

T = TypeVar("T")
Name = TypeVar("Name", bound=str | None)  # None is the name of an only dataset


class Cursor(NamedTuple):
    """Where one dataset of a mixture stands: its own epoch, and the batches of it that are read already."""

    epoch: int
    batches: int


class Remaining(NamedTuple, Generic[Name]):
    """What is left of a mixture's epoch."""

    names: list[Name]
    """The dataset that each remaining step reads."""
    cursors: dict[Name, Cursor]
    """Where each dataset goes on."""


def interleave(shares: Mapping[Name, float], steps: int) -> list[Name]:
    """Return which name each of `steps` steps is for, each name as often as its share of all shares says.

    After any number of steps, each of n names is within 1 - 1 / (2 n - 2) of a step of its share; equal shares
    alternate. Source: Tijdeman 1980 (Discrete Mathematics 32:323), whose bound this is; always serving the name that
    lags furthest does not keep to it.

    Raises InputError for a share that is negative or no number, and where all are zero.
    """
    if not all(math.isfinite(share) and share >= 0 for share in shares.values()) or not any(shares.values()):
        raise InputError(f"shares {dict(shares)}; wanted numbers of 0 or more, and one that is more than 0")
    drawn = {name: Fraction(share) for name, share in shares.items() if share > 0}
    unit = math.lcm(*(share.denominator for share in drawn.values()))  # in whole numbers no rounding adds up
    names = list(drawn)
    return [names[index] for index in _interleave(tuple(int(share * unit) for share in drawn.values()), steps)]


@functools.lru_cache(maxsize=8)  # epochs of one length have one order
def _interleave(weights: tuple[int, ...], steps: int) -> tuple[int, ...]:
    total, slack = sum(weights), 2 * len(weights) - 2
    if slack == 0:
        return (0,) * steps
    lags = [0] * len(weights)  # behind the share, in steps times `total`
    order = []
    for _ in range(steps):
        lags = [lag + weight for lag, weight in zip(lags, weights, strict=True)]
        # of those that lag by at least 1 / slack, the one that in the fewest steps would lag by 1 - 1 / slack
        waits = [
            (-((slack * lag - (slack - 1) * total) // (slack * weight)), index)
            for index, (lag, weight) in enumerate(zip(lags, weights, strict=True))
            if slack * lag >= total
        ]
        _, chosen = min(waits)
        lags[chosen] -= total
        order.append(chosen)
    return tuple(order)


class Mixture(Generic[Name]):
    """The order in which steps read several datasets."""

    def __init__(
        self, own_steps: Mapping[Name, Callable[[int], int]], weights: Mapping[Name, float] | None = None
    ) -> None:
        """Join datasets, each given by the steps of its own epochs; raise InputError where weights do not fit."""
        if not own_steps:
            raise InputError("a mixture of no datasets; wanted at least one")
        if weights is not None and (
            set(weights) != set(own_steps) or not all(0 < weight < math.inf for weight in weights.values())
        ):
            raise InputError(
                f"weights {dict(weights)} for the datasets {', '.join(map(str, own_steps))}; wanted a positive number "
                "for each"
            )
        self.weights = None if weights is None else {name: weights[name] for name in own_steps}
        self._own_steps = {name: functools.cache(steps) for name, steps in own_steps.items()}

    def own_steps(self, name: Name, epoch: int) -> int:
        """Return the steps of a dataset's own epoch; raise InputError where it has none."""
        steps = self._own_steps[name](epoch)
        if steps < 1:
            raise InputError(
                f"{'the dataset' if name is None else f'dataset {name}'}: its rows fill no batch for every reader of "
                f"epoch {epoch}; use fewer readers or a smaller batch, or leave the dataset out"
            )
        return steps

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch: those of all datasets' own epochs of that number."""
        return sum(self.own_steps(name, epoch) for name in self._own_steps)

    def names(self, epoch: int) -> list[Name]:
        """Return which dataset each step of an epoch reads."""
        own = {name: self.own_steps(name, epoch) for name in self._own_steps}
        return interleave(own if self.weights is None else self.weights, sum(own.values()))

    def remaining(self, epoch: int, steps_done: int = 0) -> Remaining[Name]:
        """Return what is left of an epoch after its first `steps_done` steps."""
        names = self.names(epoch)
        seen = Counter(names[:steps_done])
        if self.weights is None:
            return Remaining(names[steps_done:], {name: Cursor(epoch, seen[name]) for name in self._own_steps})
        for earlier in range(epoch):
            seen.update(self.names(earlier))
        return Remaining(names[steps_done:], {name: self._cursor_after(name, seen[name]) for name in self._own_steps})

    def _cursor_after(self, name: Name, batches: int) -> Cursor:
        """Return where a dataset stands after so many batches of its own epochs, one after the other."""
        epoch = 0
        while batches >= self.own_steps(name, epoch):
            batches -= self.own_steps(name, epoch)
            epoch += 1
        return Cursor(epoch, batches)

    def read(
        self, readers: Mapping[Name, Callable[[int, int], Iterator[T]]], epoch: int, steps_done: int = 0
    ) -> Iterator[tuple[Name, T]]:
        """Read an epoch from after its first `steps_done` steps, and say of each batch which dataset it is of.

        Args:
            readers: per dataset, what gives the batches of its own epoch from after a number of them; each is opened
                when its first batch is due.
            epoch: the mixture's.
            steps_done: steps of it that were read before.
        """
        names, cursors = self.remaining(epoch, steps_done)
        batches = {name: self._read_on(name, readers[name], cursor) for name, cursor in cursors.items()}
        for name in names:
            yield name, next(batches[name])

    def _read_on(self, name: Name, reader: Callable[[int, int], Iterator[T]], cursor: Cursor) -> Iterator[T]:
        """Read a dataset's own epochs one after the other, from its cursor on."""
        epoch, batches = cursor
        while True:
            steps = self.own_steps(name, epoch)
            batch_of = reader(epoch, batches)
            for step in range(batches, steps):
                batch = next(batch_of, None)
                assert batch is not None, f"{name}: {step} batches in an epoch of {steps}"
                yield batch
            epoch, batches = epoch + 1, 0
