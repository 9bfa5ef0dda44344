"""What `cisray swap` reads from a job file, and the trainings that it makes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from cisray.baselines.swap_loci import LociSpec
from cisray.bundle import Strands
from cisray.config import FOLDER_NAME, STRICT, check_settings
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.train_job import TrainJob

SWAPPED_ELSEWHERE = ("name", "out", "dataset", "datasets", "cluster")
"""Settings of a training that the swap has itself."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConditionSpec:
    """What was measured in one condition."""

    dataset: str
    """Its folder; conditions may share one, each with tracks of its own."""
    tracks: tuple[str, ...] = ()
    """Its tracks in the dataset, in the order of those of the other conditions; none takes all."""


class Run(NamedTuple):
    """One time that every condition's model is trained."""

    fold: int | None
    """Which fold is the test; None with the datasets' own splits."""
    seed: int | None
    """Of the training; None takes that of [train]."""

    @property
    def name(self) -> str:
        """A name for files: FOLD.SEED."""
        fold = "splits" if self.fold is None else f"fold-{self.fold}"
        return fold if self.seed is None else f"{fold}.seed-{self.seed}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SwapJob:
    """What `cisray swap` reads from a job file."""

    name: str
    """The experiment's."""
    out: str
    """The folder to make."""
    conditions: dict[str, ConditionSpec]
    """What models are trained on and tested on, by name."""
    train: dict[str, Any]
    """What all trainings share, as in the job file of a training, but for its name, dataset and place."""
    loci: LociSpec = LociSpec()
    seeds: tuple[int, ...] = ()
    """Of the training: every model is trained once with each; none takes that of [train]."""
    metric: Literal["auroc", "average_precision", "pearson", "pearson_log1p", "r2"] | None = None
    """The table's; None takes AUROC for labels and Pearson's correlation for numbers."""
    strands: Strands = "learned"
    """"both" averages the readings of both strands of what is tested; models read as they learned unless this says
    otherwise."""
    batch_size: int = 256
    """Of predictions."""
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        if len(self.conditions) < 2:
            raise InputError(f"conditions: {', '.join(self.conditions) or 'none'}; wanted two or more to swap between")
        for name in self.conditions:
            if not re.fullmatch(FOLDER_NAME, name):
                raise InputError(
                    f"conditions: {name!r}: wanted a name of letters, digits, _ and -: it becomes a folder"
                )
        for name in SWAPPED_ELSEWHERE:
            if name in self.train:
                raise InputError(f"train: {name} belongs to the swap itself; write it outside of [train]")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds={list(self.seeds)}; wanted each once")
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size}; wanted at least one window")
        self.train_job(Run(None, None), "any", dataset=Path("any"), out=Path("any"))

    @property
    def runs(self) -> list[Run]:
        """Every seed on every fold."""
        folds: list[int | None] = [*range(self.loci.num_folds)] or [None]
        seeds: list[int | None] = [*self.seeds] or [None]
        return [Run(fold, seed) for fold in folds for seed in seeds]

    @property
    def example(self) -> TrainJob:
        """A training as all are."""
        first = next(iter(self.conditions))
        return self.train_job(self.runs[0], first, dataset=Path(self.conditions[first].dataset), out=Path("any"))

    def train_job(self, run: Run, condition: str, *, dataset: Path, out: Path) -> TrainJob:
        """Return the training of a condition's model in one run; raise InputError where the settings make none."""
        values: dict[str, Any] = dict(self.train)
        if run.seed is not None:
            training = values.get("training", {})
            values["training"] = {**(training if isinstance(training, Mapping) else {}), "seed": run.seed}
        values |= {"name": f"{self.name}-{condition}", "dataset": str(dataset), "out": str(out)}
        return check_settings(values, TrainJob, source=f"swap {self.name}: train")
