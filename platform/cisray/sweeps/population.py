"""Population-based training: trials learn side by side, and the worst take over the weights of the best.

Source: Jaderberg et al. 2017 (arXiv:1711.09846). All wait for each other at the end of a generation, so that who takes
over from whom does not depend on who is fast.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.sweeps.space import Choice, Integer, Parameter, Space, draw_one, setting_of

MUTABLE = (
    "training.learning_rate",
    "training.weight_decay",
    "training.momentum",
    "training.clip_norm",
    "training.shift_bp",
    "training.reverse_complement",
    "objective.",
)
"""Starts of settings that may change while a network learns: its weights and the steps of an epoch stay the same."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Population:
    """As many trials as the budget has learn together, by generations."""

    method: Literal["population"]
    generation_epochs: int = 1
    """Epochs between two comparisons."""
    share: float = 0.25
    """Of the trials: so many of the worst take over from so many of the best."""
    redraw: float = 0.25
    """Probability that a parameter taken over is drawn anew; otherwise it moves a little."""
    factors: tuple[float, float] = (0.8, 1.2)
    """By one of which, at random, a number that was taken over is multiplied."""

    def __post_init__(self) -> None:
        if self.generation_epochs < 1 or not 0 < self.share <= 0.5 or not 0 <= self.redraw <= 1:
            raise InputError(
                f"search: generation_epochs={self.generation_epochs}, share={self.share}, redraw={self.redraw}; "
                "wanted at least 1, more than 0 and at most 0.5, and 0 to 1"
            )
        if min(self.factors) <= 0:
            raise InputError(f"search: factors={list(self.factors)}; wanted two positive numbers")

    def check(self, space: Space) -> None:
        """Raise InputError where the space holds what cannot change while a network learns."""
        for name, parameter in space.items():
            if not setting_of(name, parameter).startswith(MUTABLE) or parameter.when:
                raise InputError(
                    f"search: {name} cannot change while a network learns; a population takes, without conditions, "
                    f"settings that start as one of {', '.join(MUTABLE)}"
                )

    def generations(self, epochs: int) -> list[int]:
        """Return the epochs at which generations end."""
        return [*range(self.generation_epochs, epochs, self.generation_epochs), epochs]


class Heir(NamedTuple):
    """How a trial begins a generation."""

    origin: int
    """The trial whose weights it has; itself, unless it took over."""
    settings: dict[str, Any]


def evolve(
    population: Population,
    space: Space,
    *,
    seed: int,
    generation: int,
    values: Mapping[int, float],
    settings: Mapping[int, Mapping[str, Any]],
) -> dict[int, Heir]:
    """Say how each trial begins the next generation, from what all of them came to in this one.

    Args:
        population: the rules.
        space: what parameters may be.
        seed: the sweep's.
        generation: the number of the one that has ended.
        values: metric of each trial that is still alive; NaN is worse than any.
        settings: of each of them in this generation.
    """
    ranked = sorted(values, key=lambda number: (-_sound(values[number]), number))
    num = min(max(1, math.floor(population.share * len(ranked))), len(ranked) // 2)
    best, worst = ranked[:num], set(ranked[len(ranked) - num :])
    heirs = {}
    for number in sorted(values):
        if number not in worst:
            heirs[number] = Heir(number, dict(settings[number]))
            continue
        random = np.random.default_rng([seed, generation, number])
        origin = best[int(random.integers(len(best)))]
        explored = {
            name: _explore(parameter, settings[origin][name], population, random) for name, parameter in space.items()
        }
        heirs[number] = Heir(origin, explored)
    return heirs


def _explore(parameter: Parameter, value: Any, population: Population, random: np.random.Generator) -> Any:
    """Draw a value anew, or move it a little; what is no number moves to a neighbour in its list."""
    if random.random() < population.redraw:
        return draw_one(parameter, random)
    up = bool(random.integers(2))
    if isinstance(parameter, Choice):
        place = parameter.values.index(value) + (1 if up else -1)
        return parameter.values[min(max(place, 0), len(parameter.values) - 1)]
    if isinstance(parameter, Integer):
        moved = value + (parameter.step if up else -parameter.step)
        return moved if parameter.low <= moved <= parameter.high else value
    return min(max(value * population.factors[up], parameter.low), parameter.high)


def _sound(value: float) -> float:
    return -math.inf if math.isnan(value) else value
