"""One try to deliver one message: a request by HTTP, or a run of a command.

Both can be broken off from another thread, because neither a server that answers a byte a minute
nor a command that waits for ever may keep the dispatcher.
"""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from urllib.parse import urlsplit

from imagemill.db.errors import first_line
from imagemill.db.process.logs import printable
from imagemill.scheduler_jobs.notifications.addresses import NotAllowedError, port_of

REQUEST_SECONDS = 15.0
"""How long a request may take in all: name, connection, answer."""

COMMAND_SECONDS = 60.0
"""How long a command may run."""

_MOST_ANSWER = 1000
"""Bytes of an answer that are read. The rest is left where it is."""

_NOTE_CHARACTERS = 200
_GONE = 410
"""The status of a receiver that wants to hear no more, for good."""

_USER_AGENT = "imagemill"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryResult:
    """What came of a try, in one line. One that is `final` is not worth another try."""

    sent: bool
    note: str
    final: bool = False


class Delivery(ABC):
    """A try that can be broken off."""

    seconds: float
    """How long it may take. Then `abort` is called."""

    @abstractmethod
    def run(self) -> DeliveryResult:
        """Deliver. It raises nothing, also after `abort`."""

    @abstractmethod
    def abort(self) -> None:
        """Break off; `run` returns soon after. From any thread, and more than once."""


class WebhookRequest(Delivery):
    """A POST to one address. No redirect is followed, and no proxy is used.

    Args:
        url: where to.
        find: finds the IP address to connect to, as `find_address` does.
        headers: what goes with the body, as of the moment of sending.
        body: JSON.
        quote: whether the note may have the first line of an answer.
    """

    seconds = REQUEST_SECONDS

    def __init__(
        self,
        url: str,
        *,
        find: Callable[[], str],
        headers: Callable[[], Mapping[str, str]],
        body: bytes,
        quote: bool,
    ) -> None:
        self._url = url
        self._find = find
        self._headers = headers
        self._body = body
        self._quote = quote
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def run(self) -> DeliveryResult:
        """Send it, and read the status. Everything but a status of 2xx is a failure."""
        began = time.monotonic()
        try:
            status, said = self._answer()
            self._check()  # an end in the middle of an answer looks like its end
        except NotAllowedError as error:
            return DeliveryResult(sent=False, note=f"not allowed: {error}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._aborted:
                return DeliveryResult(
                    sent=False, note=f"no answer in {time.monotonic() - began:.0f} s"
                )
            return DeliveryResult(
                sent=False, note=_short(f"{type(error).__name__}: {first_line(error)}")
            )
        note = f"HTTP {status}"
        if 300 <= status < 400:
            note += ": redirects are not followed"
        elif self._quote and said:
            note += f": {said}"
        return DeliveryResult(sent=200 <= status < 300, note=_short(note), final=status == _GONE)

    def abort(self) -> None:
        """End the connection, whatever it waits for."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):
                    # Not TLS's own `shutdown`, which would change an object that is in use.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _answer(self) -> tuple[int, str]:
        parts = urlsplit(self._url)
        address = self._find()
        plain: socket.socket = socket.create_connection(
            (address, port_of(parts)), timeout=REQUEST_SECONDS
        )
        connection = http.client.HTTPConnection(parts.netloc)
        try:
            self._hold(plain)
            if parts.scheme == "https":
                context = ssl.create_default_context()
                plain = context.wrap_socket(
                    plain, server_hostname=parts.hostname, do_handshake_on_connect=False
                )
                self._hold(plain)
                plain.do_handshake()
            connection.sock = plain  # already connected to the address that was checked
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body=self._body, headers=self._all_headers())
            answer = connection.getresponse()
            first, _, _ = answer.read(_MOST_ANSWER).partition(b"\n")
            return answer.status, first.decode("utf-8", "replace").strip()
        finally:
            connection.close()
            plain.close()

    def _all_headers(self) -> dict[str, str]:
        fixed = {"Content-Type": "application/json", "User-Agent": _USER_AGENT}
        return {**fixed, "Connection": "close", **self._headers()}

    def _hold(self, connected: socket.socket) -> None:
        """Let `abort` find the connection. Raises `OSError` if it was called already."""
        with self._lock:
            self._socket = connected
        self._check()

    def _check(self) -> None:
        if self._aborted:
            raise OSError("broken off")


class CommandRun(Delivery):
    """A run of the command of the dispatcher's settings, with the event on standard input."""

    seconds = COMMAND_SECONDS

    def __init__(self, argv: Sequence[str], *, variables: Mapping[str, str], body: bytes) -> None:
        self._argv = list(argv)
        self._variables = dict(variables)
        self._body = body
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._aborted = False

    def run(self) -> DeliveryResult:
        """Run it; a status of 0 is a success. The note has the last line that it wrote."""
        # Without the keys of webhooks, which no command needs.
        kept = {n: v for n, v in os.environ.items() if not n.startswith("IMAGEMILL_NOTIFY_")}
        with tempfile.TemporaryFile() as written, tempfile.TemporaryFile() as given:
            given.write(self._body)
            given.seek(0)
            try:
                with self._lock:
                    if self._aborted:
                        return DeliveryResult(sent=False, note="broken off")
                    self._process = subprocess.Popen(  # noqa: S603  # the operator's own command
                        self._argv,
                        stdin=given,
                        stdout=written,
                        stderr=subprocess.STDOUT,
                        env=kept | self._variables,
                        start_new_session=True,
                    )
                status = self._process.wait()
            except (OSError, ValueError) as error:
                return DeliveryResult(sent=False, note=_short(f"{type(error).__name__}: {error}"))
            size = written.seek(0, os.SEEK_END)
            written.seek(max(0, size - _MOST_ANSWER))
            lines = written.read().decode("utf-8", "replace").strip().splitlines()
        if self._aborted:
            return DeliveryResult(sent=False, note=f"it still ran after {COMMAND_SECONDS:.0f} s")
        said = f": {lines[-1]}" if lines else ""
        return DeliveryResult(sent=status == 0, note=_short(f"status {status}{said}"))

    def abort(self) -> None:
        """Kill the command and what it has started."""
        with self._lock:
            self._aborted = True
            if self._process is not None and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _NOTE_CHARACTERS else f"{text[: _NOTE_CHARACTERS - 1]}…"
