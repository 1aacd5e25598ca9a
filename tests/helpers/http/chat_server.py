"""A small server that speaks OpenAI's chat completions, for scorers that ask one."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class ChatServer(ThreadingHTTPServer):
    """Answers with what `answers` holds, in order, then with `usual`.

    A number in `answers` is a status of HTTP, bytes are a whole body; `requests` are
    what was asked, with the picture.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[str | int | bytes] = []
        self.usual: str | int | bytes = "7"
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, picture = asked["messages"][0]["content"]
        body = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        with self.server.lock:
            answer = self.server.answers.pop(0) if self.server.answers else self.server.usual
            size = Image.open(io.BytesIO(body)).size
            told = {"path": self.path, "model": asked["model"], "text": text["text"], "size": size}
            self.server.requests.append(told)
            self.server.keys.add(self.headers["Authorization"])
        if isinstance(answer, int):
            return self._send(answer, {"error": {"message": f"status {answer}", "type": "x"}})
        if isinstance(answer, bytes):
            return self._send_body(200, answer)
        message = {"role": "assistant", "content": answer}
        return self._send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            },
        )

    def _send(self, status: int, document: dict[str, Any]) -> None:
        self._send_body(status, json.dumps(document).encode())

    def _send_body(self, status: int, body: bytes) -> None:
        self.send_response(status)
        kind = "text/html" if body.startswith(b"<") else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests need no log."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
