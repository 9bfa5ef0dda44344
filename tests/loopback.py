"""Ports of this machine for servers that a test starts."""

import contextlib
import socket


def free_ports(number):
    """Return ports of this machine that nobody listens on; Ray's own are fixed, and another cluster's too."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
