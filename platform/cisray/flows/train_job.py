"""What `cisray train` reads from a job file."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import SHALLOW, ModelConfig
from cisray.config import STRICT
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.pools import READER_CPUS, READERS
from cisray.flows.resources import RESOURCES, Need, Node, Request, check_amounts, find_lack
from cisray.goals import ObjectiveSpec
from cisray.remote import local_path
from cisray.training.spec import TrainSpec
from cisray.transfer import StartSpec

# Of a cluster beside the workers: the tasks that read for them take parts of it, one after another if need be.
READERS_CPUS = READERS * READER_CPUS
WORKER_PROCESS = "RayTrainWorker"
"""What Ray calls the process of a worker."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerSpec:
    """How many processes learn together, and what each has."""

    num_workers: int = 1
    cpus_per_worker: int | None = None
    """Threads of a worker; None shares the CPUs of the cluster's nodes among the workers."""
    use_gpu: bool = False
    """Whether each worker has a GPU. A GPU gives other last bits, so what the cluster has does not decide it."""
    memory_gb_per_worker: float | None = None
    """GiB that a node must have free to be given a worker: Ray places workers by it, and stops none that takes more."""
    accelerator_type: str | None = None
    """Kind of GPU that a worker's node must have, by Ray's name for it, such as H100 or A10G; None takes any."""
    strategy: Literal["replicate", "shard"] = "replicate"
    """Whether each worker holds the whole network (DDP), or a share of its weights, gradients and moments (FSDP2)."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or (self.cpus_per_worker is not None and self.cpus_per_worker < 1):
            raise InputError(f"workers: {self}; wanted at least one worker with at least one CPU")
        check_amounts(self.need, self.request().settings)

    @property
    def threads(self) -> int:
        """CPUs of one worker; where the job does not say, and no cluster was asked, a share of this machine's."""
        return self.cpus_per_worker or max(1, (os.cpu_count() or 1) // self.num_workers)

    @property
    def need(self) -> Need:
        """What one worker takes."""
        return Need(float(self.threads), float(self.use_gpu), self.memory_gb_per_worker, self.accelerator_type)

    def request(self, section: str = "workers") -> Request:
        """Return what a training cannot do without: all workers at once, and beside them what reads for them."""
        names = ("cpus_per_worker", "use_gpu", "memory_gb_per_worker", "accelerator_type", "num_workers")
        settings = dict(zip(RESOURCES, (f"{section}.{name}" for name in names), strict=True))
        return Request(self.need, settings, self.num_workers, READERS_CPUS)

    def on(self, nodes: Sequence[Node]) -> "WorkerSpec":
        """Return the workers with the CPUs that each gets of a cluster: the most with which all have room on it.

        With GPUs it is at most a GPU's share of its node's, less one for readers, so that others use the other GPUs.
        Where the workers have no room, or not yet, each gets its share of this machine.
        """
        if self.cpus_per_worker is not None or not nodes:
            return self
        most = int(max(node.cpus for node in nodes))
        if self.use_gpu:
            most = max([1, *(int((node.cpus - 1) / node.gpus) for node in nodes if node.gpus >= 1)])
        if len(nodes) == 1:  # a cluster started here has more than the machine
            most = min(most, max(1, (os.cpu_count() or 1) // self.num_workers))
        for cpus in range(most, 0, -1):
            shared = dataclasses.replace(self, cpus_per_worker=cpus)
            if find_lack(shared.request(), nodes) is None:
                return shared
        return dataclasses.replace(self, cpus_per_worker=self.threads)


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

    def with_local_datasets(self) -> "TrainJob":
        """Return the job with its datasets' absolute paths, for workers elsewhere; what a URI names is fetched."""
        if self.dataset is not None:
            return dataclasses.replace(self, dataset=str(local_path(self.dataset)))
        found = {
            head: dataclasses.replace(one, dataset=str(local_path(one.dataset))) for head, one in self.datasets.items()
        }
        return dataclasses.replace(self, datasets=found)
