"""A store that answers with another address: nobody goes there, and no key is sent there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from imagemill.db.errors import StorageError
from imagemill.db.storage.s3 import S3Storage


@contextmanager
def server(status: int, location: str | None) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers everything alike: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location)
                self.send_header("x-amz-bucket-region", "elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    for method in ("GET", "HEAD", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_store_is_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-secret-of-this-test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with (
        server(200, None) as (inside, asked_inside),
        server(status, f"{inside}/latest/meta-data/iam/") as (endpoint, asked),
    ):
        store = S3Storage("bucket", "prefix", endpoint_url=endpoint)
        for call in (
            lambda: store.get("ab/x"),
            lambda: store.stat("ab/x"),
            lambda: store.put("ab/x", b"x", media_type="image/png"),
        ):
            with pytest.raises(StorageError) as caught:
                call()
            assert len(str(caught.value).splitlines()) == 1
    assert asked
    assert asked_inside == []
