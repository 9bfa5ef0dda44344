"""Before work is spread over machines: does each see what the job names, and the folder where its result gathers?"""

import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cisray.errors import InputError, MachineError
from cisray.flows.resources import Need, node_of
from cisray.remote import default_cache_dir, fetch, origin_of

# A folder that the driver has just made may take so long to appear on another machine of a network file system.
APPEARS_S = 5.0
# To start a process on a busy machine takes seconds; a machine whose file system hangs never answers.
ANSWERS_S = 120.0
SHOWN_PATHS = 3


class Wanted(NamedTuple):
    """What a node must see."""

    files: dict[str, int | None]
    """Sizes of files by path; None of a folder."""
    fetched: dict[str, str]
    """URIs by the path that they have in this machine's cache."""
    cache_dir: str
    folder: str
    probe: str
    """A file in the folder, which the driver has written."""


class _Node(NamedTuple):
    """A node of the cluster that work may go to."""

    node_id: str
    name: str
    """As a person finds it: address and host name."""


def check_visible(inputs: Iterable[Path], folder: Path, *, need: Need) -> None:
    """Ask every other node that work may go to whether it sees the inputs and can write where the result gathers.

    What was fetched from a URI each node fetches too, to the same path. On one node it costs nothing.

    Args:
        inputs: files and folders, as this process sees them.
        folder: where workers write; it is there.
        need: what a worker takes; nodes that cannot hold one are not asked.

    Raises:
        MachineError: a node does not see them as this one does, or does not answer; it names nodes and paths.
    """
    nodes = _nodes_for(need)
    if not nodes:
        return
    token = uuid.uuid4().hex
    probe = folder / f".visible-{token}.tmp"  # what a killed driver leaves of these is removed with other leftovers
    probe.write_text(token)
    try:
        wanted = _wanted(inputs, folder, probe)
        complaints = _ask(nodes, wanted)
    finally:
        probe.unlink(missing_ok=True)
    if complaints:
        told = "\n".join(f"node {node.name}: {complaint}" for node, complaint in complaints)
        raise MachineError(
            f"{told}\nwanted: what a job names in one folder that all machines share, under the same path, or a URI "
            "that all of them can read, such as s3://bucket/file"
        )


def _nodes_for(need: Need) -> list[_Node]:
    """Return the living nodes beside the driver's own that have what a worker takes."""
    found, own = [], ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        is_other = node["Alive"] and node["NodeID"] != own
        if is_other and not node_of(node["Resources"]).lacks(need):
            address, host = node["NodeManagerAddress"], node["NodeManagerHostname"]
            found.append(_Node(node["NodeID"], f"{address} ({host}, {node['NodeID'][:8]})"))
    return found


def _wanted(inputs: Iterable[Path], folder: Path, probe: Path) -> Wanted:
    files: dict[str, int | None] = {}
    fetched: dict[str, str] = {}
    for path in dict.fromkeys(inputs):
        origin = origin_of(path)
        if origin is not None:
            fetched[str(origin.path)] = origin.uri
        else:
            files[str(path)] = None if path.is_dir() else path.stat().st_size
    return Wanted(files, fetched, str(default_cache_dir().absolute()), str(folder), str(probe))


def _ask(nodes: Sequence[_Node], wanted: Wanted) -> list[tuple[_Node, str]]:
    """Return the nodes that miss something, each with what that is; a node that ends meanwhile gets no work either."""
    running: dict[Any, _Node] = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        running[_look_remotely.options(scheduling_strategy=place).remote(wanted)] = node
    complaints = []
    # to fetch takes as long as it takes
    limit = None if wanted.fetched else ANSWERS_S
    done, silent = ray.wait(list(running), num_returns=len(running), timeout=limit)
    for answer in done:
        try:
            missing = ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
        if missing:
            complaints.append((running[answer], missing))
    for answer in silent:
        ray.cancel(answer, force=True)
        complaints.append((running[answer], f"has not answered in {ANSWERS_S:.0f} s; is a file system of it hanging?"))
    return sorted(complaints)


@ray.remote(num_cpus=0, max_retries=0)
def _look_remotely(wanted: Wanted) -> str:
    return look_around(wanted)


def look_around(wanted: Wanted) -> str:
    """Return what this machine does not see as the driver does, in words; nothing where all is well."""
    missing = []
    try:
        missing += [
            f"{uri} is another version here, or its cache folder {wanted.cache_dir} is another one"
            for path, uri in wanted.fetched.items()
            if str(fetch(uri, Path(wanted.cache_dir))) != path
        ]
    except InputError as error:
        missing.append(str(error))
    for path, size in wanted.files.items():
        here = Path(path)
        if not here.exists():
            missing.append(f"{path} is not there")
        elif size is not None and here.stat().st_size != size:
            missing.append(f"{path} has {here.stat().st_size:,} bytes here, and {size:,} where the job began")
    missing += _look_at_folder(wanted)
    more = f" and {len(missing) - SHOWN_PATHS} more" if len(missing) > SHOWN_PATHS else ""
    return "; ".join(missing[:SHOWN_PATHS]) + more


def _look_at_folder(wanted: Wanted) -> list[str]:
    """Say where the driver's file does not appear in the folder of the result, or none can be written beside it."""
    probe, end = Path(wanted.probe), time.monotonic() + APPEARS_S
    while not probe.exists():
        if time.monotonic() > end:
            return [f"what is written to {wanted.folder} does not appear here"]
        time.sleep(0.1)
    own = probe.with_name(f".visible-{uuid.uuid4().hex}.tmp")
    try:
        own.touch()
    except OSError as error:
        return [f"nothing can be written to {wanted.folder} ({error.strerror})"]
    own.unlink(missing_ok=True)
    return []
