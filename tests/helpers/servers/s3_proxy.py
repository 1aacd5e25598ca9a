"""A proxy in front of an S3 server that breaks requests by a seeded plan, and counts what it broke.

It passes the `Host` header on, so signatures stay valid: clients use `S3Proxy.endpoint` instead
of the server's and notice nothing until a fault is due.
"""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Fault(StrEnum):
    """What may happen to one request. `AFTER`: the server did its work before it happened."""

    ERROR_500 = "500"
    ERROR_500_AFTER = "500_after"
    SLOW_DOWN_503 = "503"
    CONFLICT_409 = "409"
    FORBIDDEN_403 = "403"
    HANG = "hang"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    SLOW_BODY = "slow_body"
    TRUNCATED_UPLOAD = "truncated_upload"
    TRUNCATED_ANSWER = "truncated_answer"


class Conditions(StrEnum):
    """How the store treats `If-None-Match`."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    """As stores do that never heard of it: what is taken seems to be created again."""
    REFUSED = "refused"
    """501 NotImplemented, as some stores answer to headers they don't know."""


_ANSWERS = {
    Fault.ERROR_500: (500, "InternalError"),
    Fault.ERROR_500_AFTER: (500, "InternalError"),
    Fault.SLOW_DOWN_503: (503, "SlowDown"),
    Fault.CONFLICT_409: (409, "ConditionalRequestConflict"),
    Fault.FORBIDDEN_403: (403, "AccessDenied"),
}


class FaultPlan:
    """Which request meets which fault: first those of `script` in order, then by `rates`.

    `rates` gives each fault its share of the requests, together at most 1. The same seed gives
    the same sequence; which thread's request meets which element is up to the threads.
    """

    def __init__(
        self,
        *,
        script: Iterable[Fault | None] = (),
        rates: Mapping[Fault, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._script = list(script)
        self._rates = dict(rates or {})
        self._random = random.Random(seed)
        assert sum(self._rates.values()) <= 1 + 1e-9

    def draw(self) -> Fault | None:
        """The fault of the next request. Not for several threads at once."""
        if self._script:
            return self._script.pop(0)
        share = self._random.random()
        for fault, rate in self._rates.items():
            share -= rate
            if share < 0:
                return fault
        return None


class S3Proxy:
    """Forwards loopback requests to the server on `upstream_port`; use it as a context manager.

    `plan` and `conditions` may be replaced at any time. A hung request is let go after
    `hang_seconds`, a slow body takes `slow_seconds`.
    """

    def __init__(
        self,
        upstream_port: int,
        plan: FaultPlan | None = None,
        *,
        conditions: Conditions = Conditions.HONOURED,
        hang_seconds: float = 60,
        slow_seconds: float = 0.2,
    ) -> None:
        self.upstream_port = upstream_port
        self.plan = plan or FaultPlan()
        self.conditions = conditions
        self.hang_seconds = hang_seconds
        self.slow_seconds = slow_seconds
        self.injected: Counter[Fault] = Counter()
        """How many requests met each fault."""
        self.requests: Counter[str] = Counter()
        """How many requests came, by method."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._in_work = 0
        self._server = _Server(self)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self, method: str) -> Fault | None:
        """Count a request and say what happens to it."""
        with self._lock:
            self.requests[method] += 1
            fault = self.plan.draw()
            if fault is not None:
                self.injected[fault] += 1
            return fault

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request as in work, also when its client has died meanwhile."""
        with self._lock:
            self._in_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_work -= 1

    @property
    def idle(self) -> bool:
        """Whether no request is in work: the server gets nothing more from dead clients."""
        with self._lock:
            return self._in_work == 0

    def __enter__(self) -> "S3Proxy":
        threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="s3 proxy",
            daemon=True,
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: S3Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.proxy = proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is what we are here for; nothing to print."""


class _Exchange(BaseHTTPRequestHandler):
    """One client connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_request(self) -> None:
        with self.server.proxy.working():
            self._handle()

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.next_fault(self.command)
        match fault:
            case Fault.HANG:
                proxy.stopping.wait(proxy.hang_seconds)
                self._reset()
            case Fault.RESET_BEFORE:
                self._reset()
            case Fault.TRUNCATED_UPLOAD:
                self._forward_half(body)
                self._reset()
            case Fault.RESET_AFTER | Fault.ERROR_500_AFTER:
                self._forward(body)
                if fault is Fault.RESET_AFTER:
                    self._reset()
                else:
                    self._refuse(*_ANSWERS[fault])
            case None | Fault.SLOW_BODY | Fault.TRUNCATED_ANSWER:
                self._pass_on(body, fault)
            case _:
                self._refuse(*_ANSWERS[fault])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815  # http.server's

    def log_message(self, format: str, *args: object) -> None:
        """Requests are counted, not printed."""

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        proxy = self.server.proxy
        conditional = "If-None-Match" in self.headers
        if conditional and proxy.conditions is Conditions.REFUSED:
            self._refuse(501, "NotImplemented")
            return
        if fault is Fault.SLOW_BODY:
            proxy.stopping.wait(proxy.slow_seconds / 2)
        answer = self._forward(body)
        if answer is None:
            self._reset()
            return
        status, headers, content = answer
        if status == 412 and conditional and proxy.conditions is Conditions.IGNORED:
            status, headers, content = 200, [("Content-Length", "0")], b""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if fault is Fault.SLOW_BODY:
            proxy.stopping.wait(proxy.slow_seconds / 2)
        if fault is Fault.TRUNCATED_ANSWER:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """The server's answer; None if there was none."""
        upstream = HTTPConnection("127.0.0.1", self.server.proxy.upstream_port, timeout=60)
        try:
            self._send_head(upstream)
            upstream.send(body)
            answer = upstream.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            return None
        finally:
            upstream.close()
        dropped = {"connection", "transfer-encoding", "content-length", "keep-alive"}
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in dropped]
        # An answer to HEAD has the length of a body that does not come.
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        if answer.status != 204:
            headers.append(("Content-Length", length or str(len(content))))
        return answer.status, headers, content

    def _forward_half(self, body: bytes) -> None:
        """Send the request with half of its body, then break off."""
        upstream = HTTPConnection("127.0.0.1", self.server.proxy.upstream_port, timeout=60)
        try:
            self._send_head(upstream)
            upstream.send(body[: len(body) // 2])
        except OSError:
            pass  # a server that is down gets no half either
        finally:
            upstream.close()

    def _send_head(self, upstream: HTTPConnection) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.putheader("Connection", "close")
        upstream.endheaders()

    def _refuse(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """Close with RST, as a crashed peer or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
