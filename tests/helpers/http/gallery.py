"""A gallery that runs in a thread of the test, and an HTTP client that knows its cookie."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from imagemill.db.database import Database
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.gallery.access import Keys
from imagemill.scheduler_jobs.gallery.app import gallery_app
from imagemill.scheduler_jobs.web_server import address, listen, names_of


@dataclass
class Answer:
    """An answer with its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ServedGallery:
    """A running gallery: `url` is its first address; `cookie` is sent once `enter` was called."""

    keys: Keys
    cookie: str = field(default="", init=False)

    @property
    def url(self) -> str:
        return address("127.0.0.1", self.keys.port, self.keys.token)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.keys.port}"

    def ask(self, path: str, *, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        """One request; `Some_Header=…` gives a header, an empty one leaves it out."""
        given = {"Cookie": self.cookie} if self.cookie else {}
        if body is not None:
            given |= {"Content-Type": "application/json", "Origin": self.base}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.keys.port, timeout=240)
        text = None if body is None else json.dumps(body)
        sent = {name: value for name, value in given.items() if value}
        connection.request(method, path, body=text, headers=sent)
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def enter(self) -> None:
        """Open the first address, and keep its cookie."""
        answer = self.ask(f"/?token={self.keys.token}")
        assert answer.status == 303
        self.cookie = answer.headers["set-cookie"].partition(";")[0]


@contextmanager
def served_gallery(database: Database, storage: Storage) -> Iterator[ServedGallery]:
    """Serve a gallery on a free port of loopback as long as the block runs."""
    with listen("127.0.0.1", 0) as listening:
        keys = Keys(hosts=names_of("127.0.0.1"), port=listening.getsockname()[1])
        app = gallery_app(database, storage, keys=keys, command="imagemill")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield ServedGallery(keys)
        finally:
            server.should_exit = True
            thread.join()
