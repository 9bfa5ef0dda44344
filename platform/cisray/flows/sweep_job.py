"""What `cisray sweep` reads from a job file, and the training that a trial's settings make."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from cisray.config import FOLDER_NAME, STRICT, check_settings, flatten
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.train_job import TrainJob
from cisray.sweeps.population import Population
from cisray.sweeps.search import GridSearch, RandomSearch, Search
from cisray.sweeps.space import Parameter, check_space, draw_at_random, grid, settings_of
from cisray.sweeps.stopping import NoStopping, Stopping

SWEPT_ELSEWHERE = ("name", "out", "cluster")
"""Settings of a training that the sweep has itself."""
DRAWS_LOOKED_AT = 64


def _by_dotted_names(values: Any, section: str = "") -> Any:
    """Write the sections of a space as dotted names: in TOML both ways of writing mean the same."""
    if not isinstance(values, Mapping):
        return values
    named: dict[str, Any] = {}
    for name, value in values.items():
        is_section = isinstance(value, Mapping) and not isinstance(value.get("kind"), str)
        named |= _by_dotted_names(value, f"{section}{name}.") if is_section else {f"{section}{name}": value}
    return named


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BudgetSpec:
    """How long a sweep goes on; what is spent first ends it."""

    trials: int | None = None
    """Trials that begin; None takes 20, or all of a grid."""
    examples: int | None = None
    """Examples read by the trials before, with which no trial begins any more; an epoch reads the whole split."""
    hours: float | None = None
    """Of training, added up over trials, with which no trial begins any more: as many trials as the machine is fast."""

    def __post_init__(self) -> None:
        for name in ("trials", "examples", "hours"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"budget: {name}={value}; wanted a positive number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RepeatSpec:
    """What every trial is trained on more than once: its metric is the mean, with the spread beside it."""

    seeds: tuple[int, ...] = ()
    """Of the training; none takes that of [train]."""
    datasets: tuple[str, ...] = ()
    """The same data dealt into other folds; none takes that of [train]."""

    def __post_init__(self) -> None:
        for name in ("seeds", "datasets"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"repeats: {name}={list(values)}; wanted each once")


class Run(NamedTuple):
    """One of the trainings of a trial."""

    name: str
    changes: dict[str, Any]
    """Of the settings, by their dotted names."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepJob:
    """What `cisray sweep` reads from a job file."""

    name: str
    """The experiment's, and the winner's in the registry."""
    out: str
    """The folder to make."""
    train: dict[str, Any]
    """What all trials share, as in the job file of a training, but for its name and place."""
    space: Annotated[dict[str, Parameter], BeforeValidator(_by_dotted_names)]
    """What trials differ in, by the names of the settings; or by others, for parameters that say what they set."""
    search: Search = RandomSearch()
    stopping: Stopping = NoStopping()
    budget: BudgetSpec = BudgetSpec()
    repeats: RepeatSpec = RepeatSpec()
    baselines: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Models that stand beside the trials, by name: a [model] of their own, and changes to the other sections."""
    refit: dict[str, Any] = Field(default_factory=dict)
    """Changes with which the winner is trained again, such as training.epochs; none keeps what the search trained."""
    seed: int = Field(default=0, ge=0)
    """Of the search; that of a training is training.seed."""
    at_once: int | None = None
    """Most trials that train at the same time; None takes as many as the cluster has CPUs and GPUs for."""
    width: int = 8
    """Trials between one and the last that it may learn from: it waits for those before, and never for these."""
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        if self.width < 1 or (self.at_once is not None and self.at_once < 1):
            raise InputError(f"at_once={self.at_once}, width={self.width}; wanted at least 1")
        for name in SWEPT_ELSEWHERE:
            if name in self.train:
                raise InputError(f"train: {name} belongs to the sweep itself; write it outside of [train]")
        check_space(self.space)
        self._check_population()
        for name, section in self.baselines.items():
            if not re.fullmatch(FOLDER_NAME, name) or name == "winner":
                raise InputError(
                    f"baselines: {name!r}: wanted a name of letters, digits, _ and - for its folder; winner is taken"
                )
            if "model" not in section:
                raise InputError(f"baselines: {name} has no model; give it [baselines.{name}.model]")
            self.baseline_job(name, Path("any"), self.runs[0])
        draws = grid(self.space) if isinstance(self.search, GridSearch) else []
        for settings in draws or [
            draw_at_random(self.space, seed=self.seed, number=number) for number in range(DRAWS_LOOKED_AT)
        ]:
            self.train_job(settings, Path("any"), self.runs[0])
            if self.refit:
                self.refit_job(settings, Path("any"))

    def _check_population(self) -> None:
        """Raise InputError where a population cannot learn as the job says."""
        if not isinstance(self.search, Population):
            return
        self.search.check(self.space)
        spent = self.budget.examples or self.budget.hours
        if self.stopping != NoStopping() or spent or len(self.runs) > 1 or self.refit:
            raise InputError(
                "search: a population goes with neither stopping, repeats, refit, nor a budget of examples or hours: "
                "its trials learn to the end together, and change their settings on the way; leave these out"
            )
        training = self.example.training
        if training.patience < training.epochs:
            raise InputError(
                f"train: training.patience={training.patience} may end a trial of a population before the others; "
                f"set it to training.epochs, {training.epochs}"
            )

    @property
    def example(self) -> TrainJob:
        """A training as the trials' are: the first that is drawn at random."""
        return self.train_job(draw_at_random(self.space, seed=self.seed, number=0), Path("any"), self.runs[0])

    @property
    def num_trials(self) -> int:
        """Trials that begin at most."""
        if isinstance(self.search, GridSearch):
            whole = len(grid(self.space))
            return whole if self.budget.trials is None else min(whole, self.budget.trials)
        return self.budget.trials or 20

    @property
    def runs(self) -> list[Run]:
        """The trainings of each trial: every seed on every dataset."""
        seeds: list[dict[str, Any]] = [{"training.seed": seed} for seed in self.repeats.seeds] or [{}]
        folds: list[dict[str, Any]] = [{"dataset": path} for path in self.repeats.datasets] or [{}]
        runs = []
        for number, fold in enumerate(folds):
            for seed in seeds:
                parts = [f"fold-{number}"] * bool(fold) + [f"seed-{value}" for value in seed.values()]
                runs.append(Run("-".join(parts) or "run", fold | seed))
        return runs

    def train_job(self, settings: Mapping[str, Any], out: Path, run: Run) -> TrainJob:
        """Return the training of a trial with these parameters; raise InputError where they make none."""
        values = _changed(self.train, {**settings_of(self.space, settings), **run.changes})
        return self._job(values, out, self.name)

    def refit_job(self, settings: Mapping[str, Any], out: Path) -> TrainJob:
        """Return the training that makes the winner's bundle anew, with the first of the seeds and datasets."""
        changes = {**settings_of(self.space, settings), **self.runs[0].changes, **flatten(self.refit)}
        values = _changed(self.train, changes)
        return self._job(values, out, self.name)

    def baseline_job(self, name: str, out: Path, run: Run) -> TrainJob:
        """Return the training of a baseline."""
        own = self.baselines[name]
        values = {**self.train, "model": own["model"]}
        changes = flatten({section: value for section, value in own.items() if section != "model"})
        return self._job(_changed(values, {**changes, **run.changes}), out, f"{self.name}-{name}")

    def _job(self, values: Mapping[str, Any], out: Path, name: str) -> TrainJob:
        return check_settings({**values, "name": name, "out": str(out)}, TrainJob, source=f"sweep {self.name}")


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of dotted names set anew."""
    changed = copy.deepcopy(dict(values))
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = changed
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InputError(f"space: {name}: {section} is a value, not a section")
        place[last] = value
    return changed
