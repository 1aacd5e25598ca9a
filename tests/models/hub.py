"""A Hugging Face Hub of two endpoints, on loopback: lists a revision's files and serves them."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(kw_only=True)
class Hub:
    """Repositories by id, each a mapping of path to bytes; gated ones need `token`."""

    repositories: Mapping[str, Mapping[str, bytes]]
    gated: frozenset[str] = frozenset()
    token: str = "let-me-in"
    cards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    url: str = ""


def folder_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            self._answer_listing(path.removeprefix("api/models/"))
        else:
            self._answer_file(path, with_body=with_body)

    def _allowed(self, repository: str) -> bool:
        if repository not in self.hub.repositories:
            self._error(404, "RepoNotFound")
            return False
        sent = self.headers.get("authorization", "")
        if repository in self.hub.gated and self.hub.token not in sent:
            self._error(403, "GatedRepo")
            return False
        return True

    def _answer_listing(self, path: str) -> None:
        repository = "/".join(path.split("/")[:2])
        if not self._allowed(repository):
            return
        named = path.split("/")[3] if path.count("/") > 2 else "main"
        if named not in {"main", REVISION}:
            self._error(404, "RevisionNotFound")
            return
        files = self.hub.repositories[repository]
        if "/tree/" in path:
            document: Any = [
                {"type": "file", "path": name, "size": len(body), "oid": _etag(body)}
                for name, body in files.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": len(b)} for name, b in files.items()]
            document = {
                "id": repository,
                "sha": REVISION,
                "siblings": siblings,
                "cardData": self.hub.cards.get(repository),
            }
        self._send(200, json.dumps(document).encode(), {"content-type": "application/json"})

    def _answer_file(self, path: str, *, with_body: bool) -> None:
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not self._allowed(repository):
            return
        body = self.hub.repositories[repository].get(name)
        if revision != REVISION or body is None:
            self._error(404, "EntryNotFound")
            return
        if with_body:
            self.hub.served.append(name)
        headers = {"etag": f'"{_etag(body)}"', "x-repo-commit": REVISION}
        self._send(200, body, headers, with_body=with_body)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"x-error-code": code, "x-error-message": code})

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str], *, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
