"""Say what a worker takes of a cluster, refuse what no node could ever give, and tell what a job waits for.

Ray itself refuses nothing: an actor that fits nowhere waits until a node comes that it fits on, which on a cluster of
fixed size is for ever.
"""

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get

from cisray.errors import InputError, MachineError
from cisray.progress import Progress, Report

RESOURCES = ("CPU", "GPU", "memory", "accelerator_type", "workers")
"""What a job asks for: the keys of the names of its settings."""
ACCELERATOR = "accelerator_type:"
"""How Ray begins the name of the resource that a node with an accelerator has one of."""
# What Ray takes of that resource for each worker, so that it limits nothing.
OF_ACCELERATOR = 0.001
ROUNDING = 1e-6
MADE_UP_TYPE = re.compile("node_[0-9a-f]{32,}")
"""How Ray's monitor calls the type of a node that no autoscaler knows: after the node's id."""
# A cluster's autoscaler writes what it knows every few seconds, the first time when it has started.
AUTOSCALER_S = 30.0
LOOK_S = 10.0
# Without a worker for this long, a job says what it waits for, and then every so often.
FIRST_SAID_S, SAID_S = 60.0, 180.0
MOST_KINDS = 8


class NoRoomError(MachineError):
    """The cluster can never hold what a job asks for."""


class Need(NamedTuple):
    """What one worker takes of the node that it runs on."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float | None = None
    """GiB that Ray counts against the node's when it places workers; nothing stops a worker that uses more."""
    accelerator_type: str | None = None

    @property
    def memory(self) -> int | None:
        """Return the memory in bytes."""
        return None if self.memory_gb is None else int(self.memory_gb * 2**30)

    def options(self) -> dict[str, Any]:
        """Return it as Ray's options of actors and tasks."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "memory": self.memory,
            "accelerator_type": self.accelerator_type,
        }

    def bundle(self) -> dict[str, float]:
        """Return it as a bundle of a placement group: amounts by the names of Ray's resources."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory or 0)}
        if self.accelerator_type is not None:
            amounts[f"{ACCELERATOR}{self.accelerator_type}"] = OF_ACCELERATOR
        return {name: amount for name, amount in amounts.items() if amount}


class Node(NamedTuple):
    """What one machine of a cluster has."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    accelerators: tuple[str, ...] = ()

    def lacks(self, need: Need) -> list[str]:
        """Return the names of the resources of which a worker needs more than the whole node has."""
        has = {
            "CPU": need.cpus <= self.cpus + ROUNDING,
            "GPU": need.gpus <= self.gpus + ROUNDING,
            "memory": (need.memory_gb or 0) <= self.memory_gb + ROUNDING,
            "accelerator_type": need.accelerator_type is None or need.accelerator_type in self.accelerators,
        }
        return [name for name, enough in has.items() if not enough]

    def holds(self, need: Need) -> int:
        """Return how many such workers fit on the node."""
        if self.lacks(need):
            return 0
        amounts = ((self.cpus, need.cpus), (self.gpus, need.gpus), (self.memory_gb, need.memory_gb))
        return min(int(has / takes + ROUNDING) for has, takes in amounts if takes)


class Request(NamedTuple):
    """Workers that must run at the same time."""

    need: Need
    settings: Mapping[str, str]
    """The names of the settings that ask for them, by the names in RESOURCES."""
    workers: int = 1
    room_cpus: float = 0.0
    """CPUs beside the workers, without which these would wait for ever."""


class Lack(NamedTuple):
    """Why a cluster cannot hold a request."""

    why: str
    remedy: str


def check_amounts(need: Need, settings: Mapping[str, str]) -> None:
    """Raise InputError where amounts are none that Ray could give."""
    for name, amount, least in (("CPU", need.cpus, ROUNDING), ("GPU", need.gpus, 0), ("memory", need.memory_gb, 0.001)):
        if amount is not None and not least <= amount < math.inf:
            wanted = "0 or more" if name == "GPU" else "more than 0"
            raise InputError(f"{settings[name]}={_number(amount)}; wanted {wanted}")
    if need.gpus > 1 and need.gpus != int(need.gpus):
        raise InputError(f"{settings['GPU']}={_number(need.gpus)}; wanted a part of one GPU, or whole ones")


def find_lack(request: Request, nodes: Sequence[Node]) -> Lack | None:
    """Return why nodes with nothing else to do cannot hold a request; None where they can."""
    need, settings = request.need, request.settings
    held = [node.holds(need) for node in nodes]
    if not any(held):
        lacking = [name for name in settings if nodes and all(name in node.lacks(need) for node in nodes)]
        if not lacking:
            return Lack("no node has all of it", "ask for less, or join a cluster whose nodes have more")
        names = " and ".join(settings[name] for name in lacking)
        amounts = " or ".join(_parts(need)[name] for name in lacking)
        return Lack(f"no node has {amounts}", f"change {names}, or join a cluster whose nodes have more")
    if sum(held) < request.workers:
        remedy = f"lower {settings['workers']} or what each of them takes, or join a larger cluster"
        return Lack(f"the cluster has room for {sum(held)} of them", remedy)
    if sum(held) == request.workers:
        left = max(node.cpus - number * need.cpus for node, number in zip(nodes, held, strict=True))
        if left < request.room_cpus - ROUNDING:
            return Lack(
                f"they would take every CPU, where {_number(request.room_cpus)} must be left to what reads their data",
                f"lower {settings['CPU']} or {settings['workers']}, or join a larger cluster",
            )
    return None


def describe_request(request: Request) -> str:
    """Write what is asked for, per worker and in all."""
    need, workers = request.need, request.workers
    each = ", ".join(_parts(need).values())
    if workers == 1:
        return f"a worker takes {each}"
    memory_gb = None if need.memory_gb is None else need.memory_gb * workers
    in_all = _parts(Need(need.cpus * workers, need.gpus * workers, memory_gb))
    return f"{workers} workers take {each} each, {', '.join(in_all.values())} in all"


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Write what there is: how many nodes of each kind; amounts are rounded down, so that they can be asked for."""
    kinds = Counter(node._replace(memory_gb=_floor(node.memory_gb)) for node in nodes).most_common()
    texts = []
    for node, number in kinds[:MOST_KINDS]:
        parts = _parts(Need(node.cpus, node.gpus, node.memory_gb or None))
        if node.accelerators and node.gpus:
            parts["GPU"] = f"{parts['GPU']} {'/'.join(node.accelerators)}"
        elif node.accelerators:
            parts["accelerator_type"] = "/".join(node.accelerators)
        texts.append(f"{number} node{'s' * (number > 1)} of {', '.join(parts.values())}")
    others = sum(number for _, number in kinds[MOST_KINDS:])
    return "; ".join(texts + [f"{others} other nodes"] * bool(others)) or "no node"


def _parts(need: Need) -> dict[str, str]:
    """Return the amounts in words, by resource; what is not asked for is left out."""
    parts = {"CPU": f"{_number(need.cpus)} CPU{'s' * (need.cpus != 1)}"}
    if need.gpus:
        parts["GPU"] = f"{_number(need.gpus)} GPU{'s' * (need.gpus != 1)}"
    if need.memory_gb is not None:
        parts["memory"] = f"{_number(need.memory_gb)} GiB"
    if need.accelerator_type is not None:
        parts["accelerator_type"] = f"an accelerator {need.accelerator_type}"
    return parts


def _number(amount: float) -> str:
    return f"{amount:.10g}"


def _floor(memory_gb: float) -> float:
    """Round down to what tells nodes apart: nodes of one kind differ by some MiB."""
    return float(math.floor(memory_gb)) if memory_gb >= 10 else math.floor(memory_gb * 10) / 10


def num_held(need: Need, nodes: Sequence[Node], *, cpu_count: int) -> int:
    """Return how many workers fill a cluster and leave a CPU to Ray's readers.

    Args:
        need: what each takes.
        nodes: of the cluster.
        cpu_count: CPUs of this machine: a cluster started here says that it has more.
    """
    if len(nodes) == 1:
        return nodes[0]._replace(cpus=min(nodes[0].cpus - 1, cpu_count)).holds(need)
    held = [node.holds(need) for node in nodes]
    # a head without CPUs has none to leave
    lost = [
        number - node._replace(cpus=node.cpus - 1).holds(need)
        for number, node in zip(held, nodes, strict=True)
        if node.cpus >= 1
    ]
    return sum(held) - min(lost, default=0)


def nodes_here() -> list[Node]:
    """Return the living nodes of the cluster that this process has joined."""
    return [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def node_of(resources: Mapping[str, float]) -> Node:
    """Return what a node has, as `ray.nodes` tells its resources."""
    names = sorted(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR))
    memory_gb = resources.get("memory", 0.0) / 2**30
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), memory_gb, tuple(names))


def can_grow() -> bool | None:
    """Say whether an autoscaler adds nodes to the cluster; None where that is not known yet.

    Ray has no call that says so. Its monitor, which every cluster has, knows nodes by their types: those that an
    autoscaler was configured with, or, where there is none, names that it makes of the nodes' ids.
    """
    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return any(group.max_count == -1 or group.max_count > group.min_count for group in config.node_group_configs)
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        types = {node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]}
    else:
        written = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
        types = {*(written.get("active_nodes") or {}), *(written.get("idle_nodes") or {})}
    return not all(MADE_UP_TYPE.fullmatch(name) for name in types) if types else None


def _grows() -> bool:
    """Say whether an autoscaler adds nodes to the cluster, waiting for it to have started."""
    deadline = time.monotonic() + AUTOSCALER_S
    while (answer := can_grow()) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    return bool(answer)


@contextmanager
def room_for(request: Request, *, process: str, report: Report) -> Iterator[None]:
    """Refuse what the cluster can never hold; in the block, tell what is waited for while no worker runs.

    Args:
        request: the workers that the block starts.
        process: what is part of the names of their processes, as Ray lists them.
        report: told, beside what the block tells it, from a thread.

    Raises:
        NoRoomError: no node, or not the whole cluster, can hold the workers, and no autoscaler adds nodes.
    """
    nodes = nodes_here()
    lack = find_lack(request, nodes)
    if lack is not None and not _grows():
        asked, there_is = describe_request(request), describe_nodes(nodes)
        raise NoRoomError(f"{asked}, and {lack.why}; there is: {there_is}; {lack.remedy}")
    if lack is not None:
        _say(request, 0.0, report)
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(request, process, report, ended), name="cisray-room", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join(1.0)  # where the cluster is gone, it may wait for an answer


def _watch(request: Request, process: str, report: Report, ended: threading.Event) -> None:
    """Tell what is waited for whenever no worker has been running for long, until the cluster ends."""
    seen = time.monotonic()
    due = seen + FIRST_SAID_S
    while not ended.wait(LOOK_S):
        try:
            if _any_running(process):
                seen = time.monotonic()
                due = seen + FIRST_SAID_S
            elif time.monotonic() >= due:
                _say(request, time.monotonic() - seen, report)
                due = time.monotonic() + SAID_S
        except RayError:
            return


def _any_running(process: str) -> bool:
    """Say whether a worker of this job runs anywhere."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return any(process in actor["ActorClassName"] for actor in state.actor_table(None, job, "ALIVE").values())


def _say(request: Request, waited_s: float, report: Report) -> None:
    """Tell what is waited for, since when, and what there is."""
    nodes = nodes_here()
    lack = find_lack(request, nodes)
    why = "others use what there is, or it is about to start" if lack is None else lack.why
    minutes = int(waited_s / 60)
    since = f" since {minutes} min" * bool(minutes)
    note = f"waits for room{since}: {describe_request(request)}; {why}; there is: {describe_nodes(nodes)}"
    report(Progress("wait", minutes, 0, "min", note=note))
