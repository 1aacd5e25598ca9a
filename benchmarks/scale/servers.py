"""The servers of these benchmarks: PostgreSQL as `imagemill up` runs it, and its broker.

A commit is on the disk before it counts (`fsync` and `synchronous_commit` are on), unlike in the
tests.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.postgres import PostgresServer
from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey
from tests.helpers.servers.scratch import ScratchFolder

_STATEMENTS = "pg_stat_statements"


class BenchmarkPostgres(PostgresServer):
    """A durable server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        place = folder / "postgres"
        place.mkdir(mode=0o700)
        super().__init__(
            place,
            port=free_ports(1)[0],
            user="app",
            password=secrets.token_hex(16),
            log=place / "server.log",
        )

    def create_database(self, name: str, *, statements: bool = False) -> str:
        """A new database; its URL. With `statements` the server counts what each one costs."""
        if statements:
            self._execute(sql.SQL("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements"))
            self.restart()
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        if statements:
            with psycopg.connect(self.url_of(name).replace("+psycopg", "")) as connection:
                connection.execute("CREATE EXTENSION pg_stat_statements")
        return self.url_of(name)

    def vacuum_often(self) -> None:
        """Let autovacuum look every second, so that a short run has it as often as a long one."""
        self._execute(sql.SQL("ALTER SYSTEM SET autovacuum_naptime = '1s'"))
        self._execute(sql.SQL("SELECT pg_reload_conf()"))

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres() -> Iterator[BenchmarkPostgres]:
    """A server whose data is gone after the block."""
    with scratch() as folder, BenchmarkPostgres(folder) as server:
        yield server


@contextmanager
def valkey() -> Iterator[EmbeddedValkey]:
    """A broker whose data is gone after the block."""
    with scratch() as folder, EmbeddedValkey(folder / "broker", loopback=True) as server:
        yield server


def cpu_seconds(pid: int) -> float:
    """Processor time of a server and of its children, those that have ended too."""
    parent = psutil.Process(pid)
    spent = 0.0
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended, and is the parent's by now
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the block; what a killed run left behind is removed by the next one."""
    folder = ScratchFolder("bench")
    folder.path.chmod(0o711)  # as root, PostgreSQL may run as somebody else, who must get in
    try:
        yield folder.path
    finally:
        folder.remove()
