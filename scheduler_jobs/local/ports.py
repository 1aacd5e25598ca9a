"""Ports on loopback that nobody listens on."""

import random
import socket
from collections.abc import Collection
from contextlib import ExitStack, suppress

LOOPBACK = "127.0.0.1"

_REMEMBERED = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections, one of which may hold a port later."""


def free_ports(count: int) -> list[int]:
    """That many loopback ports that nobody listens on just now, none of them twice.

    Linux gives none of them to another program for the next minute, unless that asks for it by
    its number: servers may take their time to start.
    """
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        for each in sockets:
            _keep_for_a_minute(each)
        return [int(each.getsockname()[1]) for each in sockets]


def _keep_for_a_minute(bound: socket.socket) -> None:
    """Leave a closed connection in the state TIME_WAIT on the port of a socket.

    A port in that state is no free one for whoever takes any, and servers, which name theirs,
    listen there (SO_REUSEADDR).
    """
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.listen(1)
    with socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        accepted.close()  # first: TIME_WAIT is on the side that closes first


def lasting_port(*wanted: int, taken: Collection[int] = ()) -> int:
    """A port to remember: the first of `wanted` that is free and not in `taken`, or another."""
    spread = random.sample(_REMEMBERED, 200)
    for port in (*wanted, *spread):
        if port not in taken and is_free(port):
            return port
    return free_ports(1)[0]


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server could listen there now."""
    with suppress(OSError), socket.socket(_family(address)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return True
    return False


def answers(port: int, address: str = LOOPBACK) -> bool:
    """Whether a program takes connections there."""
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
