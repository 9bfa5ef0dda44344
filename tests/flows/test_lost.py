import os
import re
import socket
import subprocess
import sys

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, NodeDiedError, OutOfMemoryError, RayActorError

from cisray.errors import InputError, MachineError
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.lost import check_answers, deaths_told

pytestmark = pytest.mark.ray  # not started, but imported
# A head and a machine's part of a cluster that are no more than places where something listens, until one goes away.
LOSE = """
import socket, sys, time
from types import SimpleNamespace

import cisray.flows
from cisray.flows import lost

head, raylet = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
port = lambda server: server.getsockname()[1]
context = SimpleNamespace(gcs_address=f"127.0.0.1:{port(head)}", get_node_id=lambda: "me")
node = {"NodeID": "me", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port(raylet)}
lost.ray = SimpleNamespace(
    get_runtime_context=lambda: context, nodes=lambda: [{"NodeID": "other"}, node], is_initialized=lambda: True
)
lost.LOOK_S, lost.RAYLET_S = 0.05, 0.5
with lost.told_if_lost():
    {"head": head, "raylet": raylet}[sys.argv[1]].close()
    time.sleep(60)
"""


@pytest.fixture(params=["127.0.0.1:{}", "localhost:{}"])
def silent_address(request):
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return request.param.format(taken.getsockname()[1])


def test_a_cluster_that_does_not_answer_is_refused_at_once(silent_address, monkeypatch):
    told = rf"RAY_ADDRESS={silent_address}: no cluster answers there; start it, name another one, or unset RAY_ADDRESS"
    with pytest.raises(InputError, match=told):
        check_answers(silent_address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", silent_address)
    with pytest.raises(InputError, match=told), cluster(ClusterSpec()):
        pass


def test_what_listens_or_is_no_place_is_left_to_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_answers(f"127.0.0.1:{server.getsockname()[1]}")
    for address in ("auto", "local", "ray://127.0.0.1:1", "head"):
        check_answers(address)


def test_deaths_are_told_in_one_line_and_other_errors_left_alone():
    told = r"processes that did it died, .* \(The actor died unexpectedly .*\); what was finished is kept: run the same"
    with pytest.raises(InputError, match=told) as ended, deaths_told():
        raise ActorDiedError
    assert "\n" not in str(ended.value)
    with pytest.raises(GetTimeoutError, match="too long"), deaths_told():
        raise GetTimeoutError("too long")


@pytest.mark.parametrize(
    ("error", "of_machine"),
    [
        (NodeDiedError("gone"), True),
        (RayActorError(error_msg="The actor died because its node has died. Node Id: 7"), True),
        (RayActorError(error_msg="The actor is dead because its worker process has died."), False),
        (OutOfMemoryError("too much"), False),
    ],
)
def test_a_machine_that_died_says_nothing_of_the_work(error, of_machine):
    with pytest.raises(InputError, match="run the same command again") as ended, deaths_told():
        raise error
    assert isinstance(ended.value, MachineError) == of_machine


@pytest.mark.parametrize(
    ("which", "told"),
    [
        (
            "head",
            r"\ncisray: the head of the Ray cluster at \S+ has not answered for 1 s; what was finished is kept: run",
        ),
        (
            "raylet",
            r"\ncisray: this machine's part of the Ray cluster at \S+ has not answered for 0 s; what was finished",
        ),
    ],
)
def test_what_a_driver_cannot_go_on_without_ends_it_with_a_word(which, told):
    environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", LOSE, which], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert re.search(told, ended.stderr)
    assert "Traceback" not in ended.stderr
