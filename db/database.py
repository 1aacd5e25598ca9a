"""Opening the database, and transactions that survive a lost connection.

`Database.run` gives a function one transaction and, if the connection breaks, a deadlock is
broken or the commit's outcome is unknown, runs it again: every statement in `db.queries` is
fenced by state, so doing it twice does nothing the second time.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from db.errors import DatabaseError, SettingsError
from db.settings import Settings, without_password

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long `run` waits for a database that does not answer before it gives up."""

_SQLITE_BUSY_MS = 30_000
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class Database:
    """A database by its SQLAlchemy URL: Postgres (psycopg 3) or SQLite (WAL)."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except exc.ArgumentError:
            raise SettingsError(
                "IMAGEMILL_DATABASE_URL is not a SQLAlchemy URL; "
                "expected postgresql+psycopg://user:password@host/name or sqlite:///file"
            ) from None
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in {"postgresql", "sqlite"}:
            raise SettingsError(
                f"IMAGEMILL_DATABASE_URL: {parsed.get_backend_name()} is not supported; "
                "expected postgresql or sqlite"
            )
        self.url = without_password(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(parsed) if self.is_sqlite else _postgres_engine(parsed)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Database":
        """The database that the settings name."""
        return cls(settings.database_url.get_secret_value())

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction that may write; committed at the end, rolled back on an exception."""
        with self._connected(write=True) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One read transaction; nothing written in it is kept."""
        with self._connected(write=False) as session:
            yield session

    def run(self, work: Callable[[Session], T], *, patience: float = PATIENCE_SECONDS) -> T:
        """What `work` returns, done in one committed transaction.

        Runs `work` again while the database is away or a deadlock was broken, so `work` must be
        safe to repeat after an unknown outcome. `DatabaseError` after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                with self.writing() as session:
                    return work(session)
            except exc.DBAPIError as error:
                if not _passing(error):
                    raise
                if time.monotonic() + pause > deadline:
                    raise DatabaseError(f"{self.url}: {_first_line(error)}") from error
                log.warning("waiting for the database %s: %s", self.url, _first_line(error))
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _connected(self, *, write: bool) -> Iterator[Session]:
        with (
            self.engine.connect().execution_options(writes=write) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session


def _postgres_engine(url: Any) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=5,
        pool_recycle=1800,
        connect_args={"connect_timeout": 10, "application_name": "imagemill"},
    )


def _sqlite_engine(url: Any) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _SQLITE_BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own transaction handling starts transactions late; we begin them ourselves.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that writes takes the lock at once: one that read first could not upgrade.
        write = connection.get_execution_options().get("writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _passing(error: exc.DBAPIError) -> bool:
    """Whether the same transaction may succeed in a moment."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        # 08 connection, 40 rollback (deadlock, serialisation), 53 resources, 57P0x shutdown,
        # 55P03 lock timeout.
        return state[:2] in {"08", "40", "53"} or state[:4] == "57P0" or state == "55P03"
    if isinstance(error.orig, sqlite3.Error):
        text = str(error.orig)
        return "locked" in text or "busy" in text or "disk is full" in text
    return isinstance(error, exc.OperationalError | exc.InterfaceError)


def _first_line(error: exc.DBAPIError) -> str:
    return (str(error.orig) or type(error.orig).__name__).strip().splitlines()[0]
