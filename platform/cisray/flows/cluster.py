"""Start or join a Ray cluster, and bring what its workers report back to the driver."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data
from pydantic.dataclasses import dataclass
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.flows.lost import check_answers, deaths_told, told_if_lost
from cisray.flows.resources import RESOURCES, Need, Node, Request, check_amounts, nodes_here, num_held
from cisray.progress import Progress, Report

# Ray would end a pipeline whose tasks take long; how long a shard may take only its data can tell.
NO_PROGRESS_LIMIT = -1
DRAIN_S = 0.2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClusterSpec:
    """What of a cluster a job uses."""

    actors: int | None = None
    """Processes that work on shards; None takes as many as the cluster's nodes have CPUs for, or GPUs."""
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    memory_gb_per_actor: float | None = None
    """GiB that a node must have free to be given an actor: Ray places actors by it, and stops none that takes more."""
    accelerator_type: str | None = None
    """Kind of GPU that an actor's node must have, by Ray's name for it, such as H100 or A10G; None takes any."""
    num_cpus: int | None = None
    """Logical CPUs of a cluster started here; None takes two more than the machine has, and at least 4: workers may
    take every CPU, and without room beside them Ray's readers and they wait for each other."""
    object_store_mb: int = 512
    """Shared memory of a cluster started here."""

    def __post_init__(self) -> None:
        if (self.actors is not None and self.actors < 1) or self.object_store_mb < 80:
            raise InputError(
                f"cluster: actors={self.actors}, object_store_mb={self.object_store_mb}; "
                "wanted at least 1 actor and 80 MB"
            )
        check_amounts(self.need, self.request.settings)

    @property
    def need(self) -> Need:
        """What one actor takes."""
        return Need(self.cpus_per_actor, self.gpus_per_actor, self.memory_gb_per_actor, self.accelerator_type)

    @property
    def request(self) -> Request:
        """What a flow cannot do without: one actor; more of them only make it faster."""
        names = ("cpus_per_actor", "gpus_per_actor", "memory_gb_per_actor", "accelerator_type", "actors")
        return Request(self.need, dict(zip(RESOURCES, (f"cluster.{name}" for name in names), strict=True)))

    def num_actors(self, num_shards: int) -> int:
        """Return how many processes work on this many shards."""
        return self._actors_on(nodes_here, num_shards)

    def expected_actors(self, num_shards: int) -> int:
        """Return how many processes will work on this many shards, before a cluster is joined or started."""
        return self._actors_on(self.expected_nodes, num_shards)

    def expected_nodes(self) -> list[Node]:
        """Return the nodes of the cluster that a job would join, or the one of the cluster that it would start."""
        if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
            with cluster(self):
                return nodes_here()
        import torch  # noqa: PLC0415 - takes a second, which workers that need no PyTorch are not to pay

        memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        accelerators = () if self.accelerator_type is None else (self.accelerator_type,)
        return [Node(self._local_cpus, torch.cuda.device_count(), memory_gb, accelerators)]

    @property
    def _local_cpus(self) -> int:
        """Logical CPUs of a cluster started here."""
        return self.num_cpus or max(4, (os.cpu_count() or 1) + 2)

    def _actors_on(self, nodes: Callable[[], Sequence[Node]], num_shards: int) -> int:
        """Return how many processes these nodes, asked only where that matters, have for so many shards."""
        if self.actors is not None:
            return min(self.actors, num_shards)
        return max(1, min(num_held(self.need, nodes(), cpu_count=os.cpu_count() or 1), num_shards))


@contextmanager
def cluster(spec: ClusterSpec) -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS, or this process's own; else start one here, and end it afterwards."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_LIMIT
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        with deaths_told():
            yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        check_answers(address)
        ray.init(**quiet)
    else:
        # Ray would replace a loopback address by the machine's own and listen on every interface.
        services.resolve_ip_for_localhost = lambda host: host
        with _without_native_log():
            ray.init(
                address="local",
                num_cpus=spec._local_cpus,
                object_store_memory=spec.object_store_mb << 20,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    try:
        with told_if_lost(), deaths_told():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _without_native_log() -> Iterator[None]:
    """Hold back what Ray's C++ part writes straight to stderr while it starts; Python's errors still come through."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Mailbox:
    """Holds what workers said until the driver takes it."""

    def __init__(self) -> None:
        self._items: list[Progress] = []

    def put(self, item: Progress) -> None:
        """Keep one message."""
        self._items.append(item)

    def take(self) -> list[Progress]:
        """Give all messages since the last call."""
        items, self._items = self._items, []
        return items


class RemoteReport:
    """A `report` that can be sent to a worker: what it is told reaches the driver's own report."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def __call__(self, progress: Progress) -> None:
        """Deliver one message: waited for, or a worker could be done before its last words arrive."""
        ray.get(self._mailbox.put.remote(progress))


@contextmanager
def relayed(report: Report) -> Iterator[RemoteReport]:
    """Give a report that workers can call; `report` hears it in this process, on a thread of its own."""
    # beside the driver: on another node it would take the whole run with it when that dies
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
    ended = threading.Event()

    def drain() -> None:
        last = False
        while not last:
            last = ended.wait(DRAIN_S)
            for progress in ray.get(mailbox.take.remote()):
                report(Progress(*progress))

    listener = threading.Thread(target=drain, name="cisray-report", daemon=True)
    listener.start()
    try:
        yield RemoteReport(mailbox)
    finally:
        ended.set()
        listener.join()
        ray.kill(mailbox)
