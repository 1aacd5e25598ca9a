"""The PostgreSQL of `imagemill up`, in a scratch folder and without `fsync`."""

import itertools
import secrets

import psycopg
from psycopg import sql

from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.postgres import PostgresServer
from tests.helpers.servers.scratch import ScratchFolder


class Postgres(PostgresServer):
    """A server with one user; `create_database` gives each test its own database."""

    def __init__(self) -> None:
        # On a disk, a new database for a test takes a tenth of a second of the kernel's time.
        self._scratch = ScratchFolder("postgres", in_memory=True)
        super().__init__(
            self._scratch.path,
            port=free_ports(1)[0],
            user="app",
            password=secrets.token_hex(16),
            log=self._scratch.path / "server.log",
            durable=False,
            inherit=[self._scratch.lock],
        )
        self._numbers = itertools.count(1)
        self._admin: psycopg.Connection | None = None

    def start(self) -> None:
        """Start it, and connect: a new connection takes as long as half a new database."""
        super().start()
        self._disconnect()
        self._admin = psycopg.connect(self.dsn, autocommit=True)

    def create_database(self, *, template: str = "template1") -> str:
        """A new database, a copy of `template`, which nobody may be connected to; its URL."""
        name = f"test_{next(self._numbers)}_{secrets.token_hex(4)}"
        # Copying files beats logging pages for a template of this size.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._run(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        name = sql.Identifier(url.rpartition("/")[2])
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def stop(self) -> None:
        """End it and remove its data."""
        self._disconnect()
        super().stop()
        self._scratch.remove()

    def _disconnect(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def _run(self, statement: sql.Composed) -> None:
        assert self._admin is not None, "the server was not started"
        self._admin.execute(statement)
