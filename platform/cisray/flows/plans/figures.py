"""What a job will take, told before it is run: each figure with what it rests on.

Counted is what the flow's own layout of the work says. Measured is what a little of the work took here, done by the
flow's own code. Assumed is what neither says: above all that a worker elsewhere is `speed` times one here, and that
files and network keep up with all of them.
"""

import heapq
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT

Basis = Literal["counted", "measured", "assumed"]
COMMAND_S = {"build": 5.5, "train": 10.0, "sweep": 10.0, "score": 8.0}
"""Of a verb besides its flow, assumed: imports, what it tells MLflow; as tests/benchmarks/plan.py finds it."""
TRAINER_S = 6.0
"""Of Ray Train until workers begin, beyond starting them, and to end; assumed."""
SHARD_S = 0.011
"""Of the driver per shard, which workers do not share; assumed: the part `shards` of tests/benchmarks/scaling.py."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanSpec:
    """What a job is planned for."""

    workers: int | None = Field(default=None, ge=1)
    """Processes that work on it; None takes what the job says, or else one per CPU of this machine."""
    speed: float = Field(default=1.0, gt=0)
    """Of one of them, as a multiple of one here."""
    probe_s: float = Field(default=20.0, ge=0)
    """Seconds of work that are timed, about: at least a few batches or two shards; 0 times nothing."""


class Figure(NamedTuple):
    """One figure of a plan."""

    name: str
    value: float
    unit: str
    """What it counts; bytes, seconds and FLOP are whole ones."""
    basis: Basis
    why: str
    """What it rests on, in words."""


class JobPlan(NamedTuple):
    """What a job will take."""

    verb: str
    name: str
    figures: list[Figure]

    def value(self, name: str) -> float:
        """Return a figure's value."""
        return next(figure.value for figure in self.figures if figure.name == name)

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"verb": self.verb, "name": self.name, "figures": [figure._asdict() for figure in self.figures]}


class Phase(NamedTuple):
    """A part of the time that a job takes."""

    what: str
    seconds: float
    basis: Basis = "measured"


def makespan_s(pieces: Sequence[float], workers: int) -> float:
    """Return the seconds until workers are done that take pieces in order, each the next one when it is free."""
    free_at = [0.0] * workers
    for seconds in pieces:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def time_figure(phases: Sequence[Phase], why: str) -> Figure:
    """Return the figure of the whole time, and of what parts it is made; those that are assumed are marked."""
    parts = ", ".join(
        f"{phase.seconds:,.3g} s {phase.what}" + " (assumed)" * (phase.basis == "assumed") for phase in phases
    )
    return Figure("time", sum(phase.seconds for phase in phases), "seconds", "measured", f"{parts}; {why}")
