"""The servers of a campaign, each of which can be broken, and the environment to reach them."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString, Self

import psutil
import psycopg
from redis import Redis

from imagemill.db.database import Database
from imagemill.db.schema import migrate
from tests.chaos.history import EPOCH
from tests.helpers.machine.database_clock import DatabaseClock
from tests.helpers.machine.faked_clock import FakedClock
from tests.helpers.servers.postgres import Postgres
from tests.helpers.servers.s3_proxy import S3Proxy
from tests.helpers.servers.seaweedfs import Seaweed
from tests.helpers.servers.valkey import Valkey

LEASE_SECONDS = 2.0
HANG_LEASES = 2.0
"""After how many leases without a step a worker counts as hung."""

_STOPPED_SECONDS = 0.2

MAX_SOLO_LOSSES = 16
"""Twice production's: here a worker is lost every second, by what is no image's doing."""


class Stage:
    """Postgres, Valkey and an S3 server behind a proxy; a context manager."""

    def __init__(self, folder: Path | None = None, *, lease_seconds: float = LEASE_SECONDS) -> None:
        """With a `folder`, the processes have a clock that can be set, if libfaketime is here."""
        self.lease_seconds = lease_seconds
        self.clock = None if folder is None else FakedClock.made(folder / "clock")
        self._threads = threading.local()
        self.postgres = Postgres()
        self.valkey = Valkey()
        self.seaweed = Seaweed()
        self.proxy = S3Proxy(self.seaweed.port, hang_seconds=0.5, slow_seconds=0.1)

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        self.seaweed.start()
        self.proxy.__enter__()
        self.url = self.postgres.create_database()
        self.database_clock = DatabaseClock(self.dsn)
        database = Database(self.url)
        migrate(database)
        database.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__()
        self.seaweed.stop()
        self.valkey.stop()
        self.postgres.stop()

    @property
    def dsn(self) -> str:
        return self.url.replace("+psycopg", "")

    @property
    def environment(self) -> dict[str, str]:
        """What a process of the campaign needs; nothing of the caller's own settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("IMAGEMILL_", "AWS_"))}
        return {
            **kept,
            **self.seaweed.environment,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            EPOCH: str(time.time() - time.monotonic()),
            "IMAGEMILL_CONFIG": os.devnull,
            "IMAGEMILL_DATABASE_URL": self.url,
            "IMAGEMILL_BROKER_URL": self.valkey.url,
            "IMAGEMILL_STORAGE_URL": f"s3://{self.seaweed.bucket}/chaos",
            "IMAGEMILL_S3_ENDPOINT_URL": self.proxy.endpoint,
            "IMAGEMILL_LEASE_SECONDS": str(self.lease_seconds),
            "IMAGEMILL_HEARTBEAT_SECONDS": "0.3",
            "IMAGEMILL_HANG_SECONDS": str(HANG_LEASES * self.lease_seconds),
            "IMAGEMILL_SHIFT_SECONDS": "5",
            "IMAGEMILL_DRAIN_SECONDS": "3",
            "IMAGEMILL_RETRY_SECONDS": "0",
            "IMAGEMILL_MAX_SOLO_LOSSES": str(MAX_SOLO_LOSSES),
            **({} if self.clock is None else self.clock.environment(kept)),
        }

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the campaign's database, over one connection per thread; `psycopg.Error` where
        that is away."""
        connection: psycopg.Connection | None = getattr(self._threads, "connection", None)
        if connection is None or connection.broken or connection.closed:
            connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
            self._threads.connection = connection
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def flush_broker(self) -> None:
        with Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def kill_broker(self) -> None:
        """SIGKILL it, destroy what it had written, and start it again: empty."""
        self.valkey.kill()
        for each in Path(self.valkey._folder).glob("appendonly*"):
            shutil.rmtree(each)
        self.valkey.restart()

    def stall(self, name: str, seconds: float) -> None:
        """Let a server stand still, its connections open, as if its disk hung.

        `name` is database, store or broker. Raises `psutil.Error` if it ends meanwhile.
        """
        with self._stopped(name):
            time.sleep(seconds)

    def slow_down(self, name: str, seconds: float) -> None:
        """Let a server run for a twentieth of the time, so that each answer takes long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with self._stopped(name):
                time.sleep(_STOPPED_SECONDS)
            time.sleep(_STOPPED_SECONDS / 19)

    @contextmanager
    def _stopped(self, name: str) -> Iterator[None]:
        servers = {"database": self.postgres, "store": self.seaweed, "broker": self.valkey}
        server = psutil.Process(servers[name].pid)
        # The parent first: it starts no more children then.
        server.suspend()
        processes = [server, *server.children(recursive=True)]
        try:
            for process in processes[1:]:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in reversed(processes):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def kill_postgres(self) -> None:
        self.postgres.kill()
        self.postgres.start()

    def revive(self) -> None:
        """Start what a busy machine could not start again in time."""
        for server in (self.postgres, self.valkey, self.seaweed):
            if not server.running:
                server.restart()
