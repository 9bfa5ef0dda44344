"""What `cisray train` reads from a job file."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import SHALLOW, ModelConfig
from cisray.config import STRICT
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.goals import ObjectiveSpec
from cisray.training.spec import TrainSpec
from cisray.transfer import StartSpec


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerSpec:
    """How many processes learn together, and what each has."""

    num_workers: int = 1
    cpus_per_worker: int | None = None
    """Threads of a worker; None shares this machine's CPUs among the workers."""
    use_gpu: bool = False
    strategy: Literal["replicate", "shard"] = "replicate"
    """Whether each worker holds the whole network (DDP), or a share of its weights, gradients and moments (FSDP2)."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or (self.cpus_per_worker is not None and self.cpus_per_worker < 1):
            raise InputError(f"workers: {self}; wanted at least one worker with at least one CPU")

    @property
    def threads(self) -> int:
        """CPUs of one worker."""
        return self.cpus_per_worker or max(1, (os.cpu_count() or 1) // self.num_workers)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SharedDataset:
    """One of several datasets that a network learns from."""

    dataset: str
    """Its folder."""
    weight: float | None = None
    """Of being drawn for a step, beside the weights of the others; without weights an epoch reads all of each."""

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise InputError(f"datasets: weight={self.weight} of {self.dataset}; wanted a positive number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainJob:
    """What `cisray train` reads from a job file."""

    name: str
    """The model's name in the registry, and its experiment's."""
    dataset: str | None = None
    """The dataset's folder."""
    datasets: dict[str, SharedDataset] = Field(default_factory=dict)
    """Instead of one: the datasets of several species or assays by the names of their heads on one trunk."""
    out: str
    """The bundle's folder."""
    model: ModelConfig
    start: StartSpec = StartSpec()
    training: TrainSpec = TrainSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    workers: WorkerSpec = WorkerSpec()
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        if (self.dataset is None) == (not self.datasets):
            raise InputError(
                "a job learns from `dataset`, or from several under [datasets.HEAD]; wanted one of the two"
            )
        weighted = [head for head, one in self.datasets.items() if one.weight is not None]
        if weighted and len(weighted) < len(self.datasets):
            raise InputError(f"datasets: only {', '.join(weighted)} has a weight; give all of them one, or none")
        if self.workers.strategy == "shard" and (self.training.compile or self.start.lora):
            raise InputError(
                'workers: strategy="shard" goes with neither training.compile nor start.lora; leave one out'
            )
        if not isinstance(self.model, (KmerRidgeConfig, *SHALLOW)):
            return
        name = self.model.architecture
        if self.datasets or self.start.model:
            raise InputError(f"{name} is fitted to one dataset from nothing; leave out [datasets] and [start]")
        if self.workers.num_workers > 1:
            raise InputError(
                f"workers: num_workers={self.workers.num_workers}, but {name} is fitted by one worker in one pass; "
                "leave num_workers at 1"
            )

    @property
    def sources(self) -> dict[str | None, str]:
        """Folders of the datasets by head; a network of one head does not name it."""
        if self.dataset is not None:
            return {None: self.dataset}
        return {head: one.dataset for head, one in self.datasets.items()}

    def with_absolute_paths(self) -> "TrainJob":
        """Return the job for Ray's workers, which have a working directory of their own."""
        if self.dataset is not None:
            return dataclasses.replace(self, dataset=str(Path(self.dataset).absolute()))
        found = {
            head: dataclasses.replace(one, dataset=str(Path(one.dataset).absolute()))
            for head, one in self.datasets.items()
        }
        return dataclasses.replace(self, datasets=found)
