"""What a sweep does next, as a function of what its trials came to: the same trials and winner in any order of events.

Trials are numbered as they begin. What becomes of trial n depends on trials of lower number alone, and what it tries
on those that are at least `width` lower; so it waits for those, and only for those. So each is looked at once, in
order: what a step costs hardly grows with the number of trials, but for a Bayesian search, which weighs all of them.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

from cisray.sweeps.population import Heir, Population, evolve
from cisray.sweeps.search import GridSearch, Known, Search, TpeSearch, propose
from cisray.sweeps.space import Space, draw_at_random, grid
from cisray.sweeps.stopping import Curve, Rung, Stopping

Status = Literal["open", "finished", "stopped", "failed"]


class Rules(NamedTuple):
    """What a sweep goes by."""

    search: Search
    space: Space
    stopping: Stopping
    seed: int
    most_trials: int
    most_examples: int | None
    most_hours: float | None
    """Of training, added up over trials; no trial begins after."""
    width: int
    epochs_of: Callable[[Mapping[str, Any]], int]
    """Epochs of a trial with these settings."""
    examples_of: Callable[[Mapping[str, Any]], int]
    """Examples that a trial with these settings reads at most."""


class Step(NamedTuple):
    """A trial's way to its next rung."""

    number: int
    rung: int
    epoch: int
    """To be reached."""
    settings: Mapping[str, Any]
    origin: int
    """The trial whose checkpoint it goes on from; its own number, unless it takes over in a population."""


class Result(NamedTuple):
    """What came of a step: the receipt that it is done."""

    number: int
    rung: int
    epoch: int
    curve: list[float]
    """Validation metric after each epoch, the best so far, mean over the trial's runs [E]; NaN where it has none."""
    values: list[float]
    """The last of each run's own curve."""
    latest: float
    """Validation metric after the last epoch, not the best so far, mean over runs; NaN where it has none."""
    examples: int
    """Read since the trial began, by all runs."""
    seconds: float
    settings: dict[str, Any]
    finished: bool
    """Whether the trial is at its end, and its bundles are written."""
    failure: str = ""
    """Why it failed; empty where it did not."""


class Schedule:
    """The trials of a random, grid or Bayesian search, told what comes of each step, asked for the next."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.settings: dict[int, dict[str, Any]] = {}
        self.results: dict[int, list[Result]] = {}
        self.status: dict[int, Status] = {}
        self.ended: list[int] = []
        """The trials that are open no more, in the order in which that was decided."""
        self._open: dict[int, None] = {}  # in the order of their numbers
        self._goes_on: dict[int, int] = {}  # the rung after which each trial may go on
        self._rungs: dict[int, tuple[int, Rung]] = {}  # by epoch: how many trials were looked at, what they came to
        self._seconds = 0.0
        self._examples = (0, 0)  # how many trials were counted, and what they read
        self._grid = grid(rules.space) if isinstance(rules.search, GridSearch) else []

    def begin(self, number: int, settings: Mapping[str, Any]) -> None:
        """Count a trial in; trials begin in order."""
        if number != len(self.settings):
            raise ValueError(f"trial {number} begins after {len(self.settings)} others")
        self.settings[number] = dict(settings)
        self.results[number] = []
        self.status[number] = "open"
        self._open[number] = None

    def tell(self, *results: Result) -> None:
        """Take in what came of steps, each trial's in order."""
        for result in results:
            if result.rung != len(self.results[result.number]):
                raise ValueError(f"trial {result.number} has {len(self.results[result.number])} rungs: {result}")
            self.results[result.number].append(result)
            self._seconds += result.seconds
        self._settle()

    def next_step(self, running: Collection[int]) -> Step | None:
        """Return a step that can be done now, of a trial that is not running; None where all wait or are done."""
        for number in self._open:
            if number not in running and len(self.results[number]) == self._goes_on.get(number, -1) + 1:
                return self._step(number)
        settings = self._admit()
        if settings is None:
            return None
        self.begin(len(self.settings), settings)
        return self._step(len(self.settings) - 1)

    def _step(self, number: int) -> Step:
        rung, settings = len(self.results[number]), self.settings[number]
        epoch = self.rules.stopping.rungs(self.rules.epochs_of(settings))[rung]
        return Step(number, rung, epoch, settings, number)

    def _end(self, number: int, status: Status) -> None:
        self.status[number] = status
        del self._open[number]
        self.ended.append(number)

    def _settle(self) -> None:
        """Decide on every trial that can be decided on, the lowest numbers first."""
        for number in list(self._open):
            results = self.results[number]
            if not results or self._goes_on.get(number, -1) == len(results) - 1:
                continue
            last = results[-1]
            if last.failure or last.finished:
                self._end(number, "failed" if last.failure else "finished")
                continue
            goes_on = self._compare(number, last)
            if goes_on:
                self._goes_on[number] = last.rung
            elif goes_on is False:
                self._end(number, "stopped")

    def _compare(self, number: int, last: Result) -> bool | None:
        """Say whether a trial goes on; None as long as one before it may still come to the same epoch."""
        stopping = self.rules.stopping
        looked_at, rung = self._rungs.get(last.epoch, (0, Rung()))
        for other in range(looked_at, number):
            results = self.results[other]
            there = next((one for one in results if one.epoch >= last.epoch or one.finished or one.failure), None)
            if there is None and self.status[other] == "open":
                return None
            if there is not None and not there.failure:
                rung.add(stopping.standing(there.curve, last.epoch))
            self._rungs[last.epoch] = (other + 1, rung)
        return stopping.goes_on(last.curve, rung, epoch=last.epoch)

    def _admit(self) -> dict[str, Any] | None:
        """Return the settings of the next trial; None where there is none, or none yet."""
        rules, number = self.rules, len(self.settings)
        if number >= rules.most_trials or self._hours_are_spent():
            return None
        long_ago = max(0, number - rules.width + 1)
        learns = isinstance(rules.search, TpeSearch)
        if (learns or rules.most_examples is not None) and next(iter(self._open), number) < long_ago:
            return None
        if rules.most_examples is not None and self._examples_spent(long_ago) >= rules.most_examples:
            return None
        if isinstance(rules.search, GridSearch):
            return self._grid[number] if number < len(self._grid) else None
        known = [self._known(other) for other in range(long_ago)] if learns else []
        return propose(rules.search, rules.space, seed=rules.seed, number=number, known=known)

    def _examples_spent(self, long_ago: int) -> int:
        """Return what the first trials read, which have all ended, and at most the others read."""
        counted, examples = self._examples
        examples += sum(self.results[other][-1].examples for other in range(counted, long_ago))
        self._examples = (long_ago, examples)
        lately = range(long_ago, len(self.settings))
        return examples + sum(self.rules.examples_of(self.settings[other]) for other in lately)

    def _hours_are_spent(self) -> bool:
        return self.rules.most_hours is not None and self._seconds >= 3600 * self.rules.most_hours

    def _known(self, number: int) -> Known:
        last = self.results[number][-1]
        value = last.curve[-1] if last.curve else math.nan
        is_sound = self.status[number] != "failed" and not math.isnan(value)
        stopped_at = last.epoch if self.status[number] == "stopped" else None
        return Known(number, self.settings[number], value if is_sound else None, stopped_at)


class PopulationSchedule(Schedule):
    """Trials that learn side by side by generations, and take over from each other between them."""

    def __init__(self, rules: Rules, population: Population) -> None:
        super().__init__(rules)
        self.population = population
        for number in range(rules.most_trials):
            self.begin(number, draw_at_random(rules.space, seed=rules.seed, number=number))
        self._heirs = [{number: Heir(number, dict(settings)) for number, settings in self.settings.items()}]

    def next_step(self, running: Collection[int]) -> Step | None:
        """Return a step that can be done now; None where all wait for the end of the generation, or are done."""
        epochs = self.population.generations(self.rules.epochs_of(self.settings[0]))
        generation = min((len(self.results[number]) for number in self._open), default=len(epochs))
        while len(self._heirs) <= generation < len(epochs):
            self._heirs.append(self._evolve(len(self._heirs)))
        for number in self._open:
            if number not in running and len(self.results[number]) == generation:
                heir = self._heirs[generation][number]
                return Step(number, generation, epochs[generation], heir.settings, heir.origin)
        return None

    def _evolve(self, generation: int) -> dict[int, Heir]:
        """Say how a generation begins, from all that came through the one before."""
        before = {
            number: results[generation - 1] for number, results in self.results.items() if len(results) >= generation
        }
        alive = {number: result for number, result in before.items() if not result.failure}
        return evolve(
            self.population,
            self.rules.space,
            seed=self.rules.seed,
            generation=generation,
            values={number: result.latest for number, result in alive.items()},
            settings={number: result.settings for number, result in alive.items()},
        )

    def _settle(self) -> None:
        for number in list(self._open):
            results = self.results[number]
            if results and (results[-1].failure or results[-1].finished):
                self._end(number, "failed" if results[-1].failure else "finished")


def make_schedule(rules: Rules) -> Schedule:
    """Return the schedule of a search."""
    if isinstance(rules.search, Population):
        return PopulationSchedule(rules, rules.search)
    return Schedule(rules)


def defined(value: float) -> float | None:
    """Return a figure, or None where it is no number: JSON has no word for that."""
    return value if math.isfinite(value) else None


def best_so_far(values: Curve) -> list[float]:
    """Return the running maximum of a metric [E]; NaN counts for nothing, and stays where nothing came before."""
    curve: list[float] = []
    for value in values:
        before = curve[-1] if curve else math.nan
        curve.append(value if math.isnan(before) or value > before else before)
    return curve


def mean_curve(curves: list[list[float]]) -> list[float]:
    """Average the curves of a trial's runs [E]; a run that ended early keeps its last value."""
    length = max(len(curve) for curve in curves)
    extended = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
    return [sum(values) / len(values) for values in zip(*extended, strict=True)]
