"""Commands that were told to end do so, also while what they wait for neither answers nor closes.

Database and broker are frozen (SIGSTOP): their connections stay open for ever, in the kernel.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from imagemill.scheduler_jobs.local.ports import answers, free_ports
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.valkey import Valkey
from tests.integration.workers import Plant, Program, eventually, planted

TOKEN = "the token of this test"
Started = tuple[Program, int]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def plant(postgres: Postgres, valkey: Valkey, tmp_path: Path) -> Iterator[Plant]:
    with planted(
        postgres.create_database(), tmp_path, broker_url=valkey.url, drain_seconds="1"
    ) as planted_:
        planted_.environment["IMAGEMILL_GALLERY_TOKEN"] = TOKEN
        yield planted_


@contextmanager
def frozen(server: int) -> Iterator[None]:
    """Within the block, a server and its processes stand still."""
    family = [psutil.Process(server), *psutil.Process(server).children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def unread(port: int) -> set[int]:
    """The ports of those whose words wait to be read by the server at `port` of loopback."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = line.split()
        if int(here.partition(":")[2], 16) == port and int(queues.partition(":")[2], 16):
            found.add(int(there.partition(":")[2], 16))
    return found


def waits_for(program: Program, url: str) -> bool:
    """Whether a program has asked a frozen server of this machine for something."""
    asking = unread(urlsplit(url).port or 0)
    mine = psutil.Process(program.pid).net_connections("tcp")
    return any(each.laddr.port in asking for each in mine)


def started(plant: Plant, command: str, *, flag: str = "--port") -> Started:
    """A command that listens, and its port, which answers."""
    port = free_ports(1)[0]
    program = plant._start("imagemill", command, flag, str(port))
    assert eventually(lambda: answers(port)), program.said
    return program, port


def enter(port: int) -> httpx2.Client:
    """A client of the gallery, which has its cookie."""
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=240)
    client.get("/", params={"token": TOKEN})
    return client


def ask(client: httpx2.Client, path: str) -> None:
    """Ask, and do not wait for the answer."""

    def get() -> None:
        with suppress(httpx2.TransportError):
            client.get(path)

    threading.Thread(target=get, daemon=True).start()


def test_a_frozen_database_keeps_nobody(plant: Plant, postgres: Postgres):
    dispatcher, _ = started(plant, "dispatcher", flag="--metrics-port")
    serve, _ = started(plant, "serve")
    gallery, port = started(plant, "gallery")
    worker = plant.worker()
    assert eventually(lambda: " ready" in worker.said), worker.said
    visitor = enter(port)
    with frozen(postgres.pid):
        ask(visitor, "/api/jobs")
        for program in (dispatcher, serve, gallery):
            assert eventually(lambda each=program: waits_for(each, postgres.url)), program.said
        gallery.signal(signal.SIGINT)
        for program in (dispatcher, serve, worker):
            program.signal(signal.SIGTERM)
        for program in (dispatcher, serve, worker, gallery):
            program.ends()


def test_a_frozen_broker_keeps_nobody(plant: Plant, valkey: Valkey):
    flower, _ = started(plant, "flower")
    dispatcher, _ = started(plant, "dispatcher", flag="--metrics-port")
    worker = plant.worker()
    assert eventually(lambda: " ready" in worker.said), worker.said
    plant.mill.load("job", ["a", "b"], route="nobody's")  # its tokens are counted in each round
    with frozen(valkey.pid):
        for program in (flower, dispatcher, worker):
            assert eventually(lambda each=program: waits_for(each, valkey.url)), program.said
            program.signal(signal.SIGTERM)
        for program in (flower, dispatcher, worker):
            program.ends()
