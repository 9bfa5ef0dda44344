"""What a sweep may change: parameters by the names of a job's settings, and how values are drawn from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError

When = dict[str, tuple[Any, ...]]
"""Earlier parameters and their values with which a parameter counts, such as the architecture that has it."""

# A grid is written down whole before its first trial begins.
MOST_COMBINATIONS = 100_000


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Choice:
    """One of a list of values, of whatever kind the setting is."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...]
    when: When = Field(default_factory=dict)
    """Counts only with these values of earlier parameters; always, where empty."""
    setting: str | None = None
    """What it sets, where several parameters set the same, each at its time; None: what it is called."""

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError("a choice of no values; wanted at least one")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Uniform:
    """A number between two, each as likely."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    points: int | None = None
    """Of a grid: how many, evenly spaced, both ends among them."""
    when: When = Field(default_factory=dict)
    setting: str | None = None

    def __post_init__(self) -> None:
        _check_range(self)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogUniform:
    """A positive number between two, each order of magnitude as likely."""

    kind: Literal["loguniform"] = "loguniform"
    low: float
    high: float
    points: int | None = None
    """Of a grid: how many, evenly spaced on a log scale, both ends among them."""
    when: When = Field(default_factory=dict)
    setting: str | None = None

    def __post_init__(self) -> None:
        _check_range(self)
        if self.low <= 0:
            raise InputError(f"loguniform: low={self.low}; wanted a positive number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Integer:
    """A whole number from `low` to `high`, both among them."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    step: int = 1
    when: When = Field(default_factory=dict)
    setting: str | None = None

    def __post_init__(self) -> None:
        if self.low >= self.high or self.step < 1:
            raise InputError(
                f"int: low={self.low}, high={self.high}, step={self.step}; wanted low below high and a positive step"
            )


Parameter = Annotated[Choice | Uniform | LogUniform | Integer, Field(discriminator="kind")]
Space = Mapping[str, Parameter]
"""Parameters by the dotted names of settings, such as "training.learning_rate", or names of their own."""


def _check_range(one: Uniform | LogUniform) -> None:
    if not -math.inf < one.low < one.high < math.inf:
        raise InputError(f"{one.kind}: low={one.low}, high={one.high}; wanted two numbers, low below high")
    if one.points is not None and one.points < 2:
        raise InputError(f"{one.kind}: points={one.points}; wanted at least 2, both ends among them")


def check_space(space: Space) -> None:
    """Raise InputError where the space is empty, a condition is of no earlier parameter, or two set one at once."""
    if not space:
        raise InputError('search: the space is empty; name a setting to try, such as "training.learning_rate"')
    earlier: dict[str, Parameter] = {}
    for name, parameter in space.items():
        for other, values in parameter.when.items():
            if other not in earlier:
                raise InputError(
                    f"search: {name} depends on {other}, which is no parameter before it; put it before {name}"
                )
            known = earlier[other]
            strange = [value for value in values if not contains(known, value)]
            if strange or not values:
                raise InputError(f"search: {name} depends on {other} being {list(values)}; it is never {strange}")
        for other, one in earlier.items():
            if setting_of(other, one) == setting_of(name, parameter) and not _exclude(one, parameter):
                raise InputError(
                    f"search: {other} and {name} both set {setting_of(name, parameter)}; give them conditions in "
                    "`when` of which one holds at a time"
                )
        earlier[name] = parameter


def setting_of(name: str, parameter: Parameter) -> str:
    """Return the dotted name of the setting that a parameter of this name stands for."""
    return parameter.setting or name


def settings_of(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is chosen by the dotted names of the settings, not of the parameters."""
    return {setting_of(name, space[name]) if name in space else name: value for name, value in chosen.items()}


def _exclude(one: Parameter, other: Parameter) -> bool:
    """Say whether two parameters never count together: a parameter that both depend on has no value for both."""
    return any(
        not [value for value in values if value in other.when[name]]
        for name, values in one.when.items()
        if name in other.when
    )


def contains(parameter: Parameter, value: Any) -> bool:
    """Say whether a parameter may take a value."""
    if isinstance(parameter, Choice):
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in parameter.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(parameter, Integer):
        return value in range(parameter.low, parameter.high + 1, parameter.step)
    return bool(parameter.low <= value <= parameter.high)


def counts(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    """Say whether a parameter counts beside what was chosen for those before it."""
    return all(name in chosen and chosen[name] in values for name, values in parameter.when.items())


def walk(space: Space, draw: Callable[[str, Parameter], Any]) -> dict[str, Any]:
    """Ask `draw` for a value of each parameter that counts, in order, and return them by name."""
    chosen: dict[str, Any] = {}
    for name, parameter in space.items():
        if counts(parameter, chosen):
            chosen[name] = draw(name, parameter)
    return chosen


def draw_at_random(space: Space, *, seed: int, number: int) -> dict[str, Any]:
    """Return the random settings of one trial, which depend on the seed and its number alone."""
    random = np.random.default_rng([seed, number])
    return walk(space, lambda _, parameter: draw_one(parameter, random))


def draw_one(parameter: Parameter, random: np.random.Generator) -> Any:
    """Draw one value, as a plain Python value."""
    if isinstance(parameter, Choice):
        return parameter.values[int(random.integers(len(parameter.values)))]
    if isinstance(parameter, Integer):
        steps = (parameter.high - parameter.low) // parameter.step
        return parameter.low + parameter.step * int(random.integers(steps + 1))
    if isinstance(parameter, LogUniform):
        value = math.exp(random.uniform(math.log(parameter.low), math.log(parameter.high)))
        return min(max(value, parameter.low), parameter.high)  # exp(log(x)) may round past an end
    return float(random.uniform(parameter.low, parameter.high))


def grid(space: Space) -> list[dict[str, Any]]:
    """Return every combination, the last parameter turning fastest; one that does not count has no value.

    Raises:
        InputError: a range does not say how many points it has.
    """
    combinations: list[dict[str, Any]] = [{}]
    for name, parameter in space.items():
        values = _points(name, parameter)[: MOST_COMBINATIONS + 1]
        combinations = [
            chosen | more
            for chosen in combinations
            for more in ([{name: value} for value in values] if counts(parameter, chosen) else [{}])
        ]
        if len(combinations) > MOST_COMBINATIONS:
            raise InputError(
                f"search: a grid of this space has more than {MOST_COMBINATIONS:,} combinations; give its parameters "
                'fewer values, or draw from it with method = "random"'
            )
    return combinations


def _points(name: str, parameter: Parameter) -> Sequence[Any]:
    if isinstance(parameter, Choice):
        return parameter.values
    if isinstance(parameter, Integer):
        return range(parameter.low, parameter.high + 1, parameter.step)
    if parameter.points is None:
        raise InputError(f"search: {name} is a range, and a grid tries points; give it points = N")
    spaced = np.geomspace if isinstance(parameter, LogUniform) else np.linspace
    return [float(value) for value in spaced(parameter.low, parameter.high, parameter.points)]
