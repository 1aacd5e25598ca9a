"""`imagemill serve` in a thread of the test, with a worker that draws at once, and a client."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from imagemill.db.database import Database
from imagemill.db.queries.api.keys import add_key
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.admission import ApiLimits
from imagemill.scheduler_jobs.api.app import api_app
from imagemill.scheduler_jobs.api.loader import Loader
from imagemill.scheduler_jobs.web_server import listen, names_of
from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop

DEAD_BROKER = "redis://127.0.0.1:1/0"
"""Nobody listens there: rendering is done here, without a broker."""

PATIENT = httpx2.Client(timeout=240)
"""A client for plain requests. By default it would give up after 5 s."""


def plain_connections() -> Any:
    """The official client's own connections, but for the certificates: they take 20 ms to read."""
    from openai import DefaultHttpxClient

    return DefaultHttpxClient(verify=False)


@dataclass
class ServedApi:
    """A running server and its clients, which share `connections`."""

    port: int
    mill: Mill
    workshop: Workshop
    loader: Loader
    connections: httpx2.Client

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **options: Any) -> Any:
        """The official client. It does not try again, unless it is asked to."""
        from openai import OpenAI

        return OpenAI(
            base_url=f"{self.base}/v1",
            api_key=key,
            http_client=self.connections,
            **({"max_retries": 0, "timeout": 400} | options),
        )

    def key(self, name: str, role: str = "submit", **limits: int) -> str:
        """Make a key; the secret."""
        given = {"images_a_day": None, "open_images": None} | limits
        secret = f"imk_secret-of-{name}"
        self.mill.database.run(
            lambda session: add_key(session, name=name, secret=secret, role=role, **given)
        )
        return secret

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within it, a worker renders whatever is ready."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                if not self.workshop.shift().done:
                    stop.wait(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def served_api(
    mill: Mill, storage: Storage, folder: Path, *, host: str = "127.0.0.1", **limits: Any
) -> Iterator[ServedApi]:
    """Serve on a free port of loopback. `limits` are fields of `ApiLimits`."""
    database: Database = mill.database
    settings = Settings.load(broker_url=DEAD_BROKER, storage_url=storage.uri)
    workshop = Workshop(mill, folder / "unused")
    workshop.storage = storage
    with listen("127.0.0.1", 0) as listening, plain_connections() as connections:
        loader = Loader(database, settings)
        app = api_app(
            database,
            storage,
            settings,
            loader=loader,
            hosts=names_of(host),
            limits=ApiLimits(**({"wait_seconds": 240.0} | limits)),
        )
        # A client that idles for seconds must not meet the end of its connection: it tries once.
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_keep_alive=600)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        loader.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield ServedApi(listening.getsockname()[1], mill, workshop, loader, connections)
        finally:
            server.should_exit = True
            thread.join()
            loader.stop()
