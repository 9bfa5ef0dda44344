"""What is tried next: the settings of a trial by its number, from the seed and what trials long before it came to."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.sweeps.population import Population
from cisray.sweeps.space import Choice, Integer, LogUniform, Parameter, Space, draw_at_random, walk

SEEDS = 2**32
"""Seeds of a sampler lie below this."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomSearch:
    """Every trial is drawn by itself."""

    method: Literal["random"] = "random"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GridSearch:
    """Every combination is tried once."""

    method: Literal["grid"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TpeSearch:
    """Optuna's tree-structured Parzen estimator: draws near what did well."""

    method: Literal["tpe"]
    random_trials: int = 10
    """Trials drawn at random before the first that is drawn near others."""

    def __post_init__(self) -> None:
        if self.random_trials < 1:
            raise InputError(f"search: random_trials={self.random_trials}; wanted at least 1")


Search = Annotated[RandomSearch | GridSearch | TpeSearch | Population, Field(discriminator="method")]


class Known(NamedTuple):
    """What an earlier trial came to."""

    number: int
    settings: Mapping[str, Any]
    value: float | None
    """None where it failed."""
    stopped_at: int | None = None
    """The epoch at which it was given up; None where it was not."""


def propose(search: Search, space: Space, *, seed: int, number: int, known: Sequence[Known]) -> dict[str, Any]:
    """Return the settings by their dotted names of a trial that is drawn; those of a grid stand in its order.

    Args:
        search: how to choose.
        space: what to choose from.
        seed: the sweep's.
        number: the trial's.
        known: earlier trials; the same ones, in any order, give the same settings.
    """
    if isinstance(search, TpeSearch) and number >= search.random_trials:
        return _ask_tpe(search, space, seed=seed, number=number, known=known)
    return draw_at_random(space, seed=seed, number=number)


def _ask_tpe(search: TpeSearch, space: Space, *, seed: int, number: int, known: Sequence[Known]) -> dict[str, Any]:
    """Tell a fresh sampler all that is known, and ask it once: it has no memory that a rerun would lack."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + number) % SEEDS, n_startup_trials=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in sorted(known, key=lambda one: one.number):
        study.add_trial(_frozen(one, space))
    trial = study.ask()

    def draw(name: str, parameter: Parameter) -> Any:
        if isinstance(parameter, Choice):  # by their places, for Optuna takes only some kinds of values
            return parameter.values[trial.suggest_categorical(name, range(len(parameter.values)))]
        if isinstance(parameter, Integer):
            return trial.suggest_int(name, parameter.low, _last(parameter), step=parameter.step)
        return trial.suggest_float(name, parameter.low, parameter.high, log=isinstance(parameter, LogUniform))

    return walk(space, draw)


def _frozen(one: Known, space: Space) -> optuna.trial.FrozenTrial:
    """Return a known trial as Optuna keeps it."""
    params = {
        name: parameter.values.index(one.settings[name]) if isinstance(parameter, Choice) else one.settings[name]
        for name, parameter in space.items()
        if name in one.settings
    }
    distributions = {name: _distribution(space[name]) for name in params}
    if one.value is None:
        state, told = optuna.trial.TrialState.FAIL, {}
    elif one.stopped_at is not None:
        state, told = optuna.trial.TrialState.PRUNED, {one.stopped_at: one.value}
    else:
        state, told = optuna.trial.TrialState.COMPLETE, {}
    value = one.value if state == optuna.trial.TrialState.COMPLETE else None
    return optuna.trial.create_trial(
        state=state, value=value, params=params, distributions=distributions, intermediate_values=told
    )


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(range(len(parameter.values)))
    if isinstance(parameter, Integer):
        return IntDistribution(parameter.low, _last(parameter), step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=isinstance(parameter, LogUniform))


def _last(parameter: Integer) -> int:
    """Return the greatest number that is drawn."""
    return parameter.low + (parameter.high - parameter.low) // parameter.step * parameter.step
