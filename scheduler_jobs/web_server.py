"""Serves an application over HTTP until it is interrupted: the gallery, or the API."""

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from imagemill.db.errors import UsageError
from imagemill.db.process.grace_period import begin_grace

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


class _Server(uvicorn.Server):
    """A server that has its signals from `serve`, and ends without raising them again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests, and end soon, also where one waits for a frozen database."""
        begin_grace()
        super().handle_exit(sig, frame)


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
    server = _Server(config)
    # Before the server listens to them: it may be told to end while it starts.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    ready()
    server.run(sockets=[listening])
