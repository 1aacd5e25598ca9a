"""Serves an application over HTTP until it is interrupted: the gallery, or the API."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from imagemill.db.errors import UsageError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine. A name is `localhost` or not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(host: str) -> frozenset[str] | None:
    """The names by which a server at this address may be called; None: any."""
    return _LOOPBACK_NAMES | {host} if is_loopback(host) else None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `UsageError` if that is impossible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise UsageError(
            f"can't listen on {host}, port {port}: {said}; try another --port"
        ) from None


def address(host: str, port: int, token: str) -> str:
    """The address of the gallery to open first."""
    return f"{base_address(host, port)}/?token={token}"


def base_address(host: str, port: int) -> str:
    """The address of a server, without a path."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def serve(app: ASGIApp, listening: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `ready` is called before the first request is taken."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would have the token
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
    )
    ready()
    # uvicorn raises the signal again after it has ended.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
