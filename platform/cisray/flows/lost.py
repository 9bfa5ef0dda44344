"""Say that a cluster, or what worked on it, is gone.

Ray waits a minute for the head of its cluster, and then ends the process without a word. None of Ray's calls comes back
in that minute, so that no error could be raised through them. What was finished has its receipts by then.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    WorkerCrashedError,
)

from cisray.errors import InputError, MachineLostError

# How long Ray waits for a head: the environment variable, and what it takes where that is not set.
RAY_WAITS = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAY_WAITS_S = 60.0
# Of that time, so that Ray does not end first, and a head that is started again in it is found.
PART_WAITED = 0.8
# Of the Ray process that a driver talks to on its own machine: once gone it does not come back.
RAYLET_S = 5.0
LOOK_S = 2.0
# Characters of an error of Ray's, which may be pages.
MOST_SHOWN = 400
# A busy head may take seconds to answer.
ANSWER_S = 10.0
EXIT_CODE = 1
DEATHS = (NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)
"""What Ray raises where processes or machines have died more often than it starts anew by itself."""
_MACHINE_DEATHS = (ActorUnavailableError, NodeDiedError, ObjectLostError)
_RAY_SAYS_MACHINE = "its node has died"


def check_answers(address: str) -> None:
    """Raise InputError where no cluster listens at host:port; other forms of address are left to Ray."""
    if _place(address) is not None and not _answers(address):
        raise InputError(
            f"RAY_ADDRESS={address}: no cluster answers there; start it, name another one, or unset RAY_ADDRESS to run "
            "on this machine"
        )


@contextmanager
def deaths_told() -> Iterator[None]:
    """Raise InputError in place of Ray's errors where the processes of the block have died.

    It is a MachineLostError where they died with their machines, which says nothing of what they did.
    """
    try:
        yield
    except DEATHS as error:
        why = " ".join(str(error).split())[:MOST_SHOWN]
        of_machine = isinstance(error, _MACHINE_DEATHS) and not isinstance(error, OwnerDiedError)
        of_machine = of_machine or _RAY_SAYS_MACHINE in str(error)
        raise (MachineLostError if of_machine else InputError)(
            "the work ended because processes that did it died, with their machine, or killed for the memory they "
            f"took, or by what they read ({why}); what was finished is kept: run the same command again, and it goes "
            "on from there"
        ) from error


class _Watched(NamedTuple):
    """What a driver cannot go on without."""

    what: str
    address: str
    longest_s: float
    """For how long it may be away."""
    busy: bool = False
    """Whether silence is no sign: on this machine, the place of a process that has died refuses at once."""


@contextmanager
def told_if_lost() -> Iterator[None]:
    """In the block, end the process with one message when its cluster, or its machine's part of that, is gone."""
    head, own = ray.get_runtime_context().gcs_address, ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    raylet = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    longest_s = PART_WAITED * float(os.environ.get(RAY_WAITS, RAY_WAITS_S))
    watched = [
        _Watched(f"the head of the Ray cluster at {head}", head, longest_s),
        _Watched(f"this machine's part of the Ray cluster at {head}", raylet, RAYLET_S, busy=True),
    ]
    watched = [one for one in watched if _answers(one.address)]  # a client from elsewhere may not see them
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(watched, ended), name="cisray-cluster", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()


def _watch(watched: Sequence[_Watched], ended: threading.Event) -> None:
    """Ask what is watched whether it is there until the block ends, or some has been silent for too long."""
    heard = [time.monotonic()] * len(watched)
    while not ended.wait(LOOK_S) and ray.is_initialized():
        for index, (what, address, longest_s, busy) in enumerate(watched):
            if _answers(address, busy=busy):
                heard[index] = time.monotonic()
            elif time.monotonic() - heard[index] > longest_s and not ended.is_set():
                print(
                    f"\ncisray: {what} has not answered for {longest_s:.0f} s; what was finished is kept: run the same "
                    "command again, and it goes on from there",
                    file=sys.stderr,
                )
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(EXIT_CODE)


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port of an address that has both and no more; None of others, such as auto."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdigit() else None


def _answers(address: str, *, busy: bool = False) -> bool:
    """Say whether something listens at an address; `busy` is what silence says."""
    place = _place(address)
    assert place is not None
    try:
        with socket.create_connection(place, ANSWER_S):
            return True
    except TimeoutError:
        return busy
    except OSError:
        return False
