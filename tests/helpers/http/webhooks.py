"""A receiver of webhooks that answers as it is told, and checks signatures by itself."""

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret of before, 32 bytes!!").decode()

Answer = int | Literal["hang", "trickle", "die"]
"""A status of HTTP; no answer; a byte now and then; a connection that is closed."""


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def is_signed_by(self, secret: str) -> bool:
        """As the specification says it, from its text: HMAC-SHA256 over `id.timestamp.body`."""
        key = base64.b64decode(secret.split("_", 1)[1])
        content = b".".join(
            (self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body)
        )
        wanted = "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        return fresh and wanted in self.headers["webhook-signature"].split(" ")


class WebhookServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        """What comes next; then always 204."""
        self.received: list[Received] = []
        self.on_receipt: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/path-hunter2?token=query-hunter2"

    @property
    def ids(self) -> Sequence[str]:
        return [each.id for each in self.received]

    def handle_error(self, *_: object) -> None:
        """Clients that break off are what we test."""


class _Handler(BaseHTTPRequestHandler):
    server: WebhookServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.received.append(Received(self.path, headers, body))
            answer = self.server.answers.pop(0) if self.server.answers else 204
        self.server.on_receipt()
        if answer == "hang":
            self.server.over.wait(400)
        elif answer == "trickle":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.over.wait(0.05):
                self.wfile.write(b"X")
        elif answer != "die":
            self._answer(answer)
        self.close_connection = True

    def _answer(self, status: int) -> None:
        text = b"" if status == 204 else b"it says secret things\nand more\n"
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def webhook_server() -> Iterator[WebhookServer]:
    with WebhookServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
