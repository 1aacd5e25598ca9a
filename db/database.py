"""Opens the database, and runs transactions that survive a lost connection.

`Database.run` runs a function in one transaction. It runs the function again if the connection
breaks, if the database ends a deadlock, or if nobody knows whether the commit succeeded. That is
safe because every statement in `db.queries` names the state that it starts from: a second run
finds another state and changes nothing.
"""

import logging
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import ExceptionContext, event, exc, make_url, text
from sqlalchemy.orm import Session

from imagemill.db.engines import (
    is_full,
    is_read_only,
    postgres_engine,
    read_only_engine,
    sqlite_engine,
)
from imagemill.db.errors import DatabaseError, PermissionDenied, SettingsError, first_line

if TYPE_CHECKING:
    from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long `run` waits for a database that does not answer before it gives up."""

_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite",
}

_POSTGRES_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

_ONLY_READ = "it can only be read here; this needs to write to it"
_REFUSALS = ("password authentication failed", "does not exist", "no pg_hba.conf entry")

_DATA_EXCEPTION = "22"
"""The class of SQLSTATEs whose messages quote a value."""
_QUOTED = re.compile(r'".*"', re.DOTALL)

_NO_PERMISSION = "42501"
"""The SQLSTATE of a right that the role does not have."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class Database:
    """A database by its SQLAlchemy URL: Postgres (psycopg 3) or SQLite (WAL)."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (exc.ArgumentError, ValueError):  # ValueError: of a port
            raise SettingsError(
                "IMAGEMILL_DATABASE_URL is not a SQLAlchemy URL; "
                "expected postgresql+psycopg://user:password@host/name or sqlite:///file"
            ) from None
        backend = parsed.get_backend_name()
        if backend not in _DRIVERS:
            raise SettingsError(
                f"IMAGEMILL_DATABASE_URL: {backend} is not supported; expected postgresql or sqlite"
            )
        parsed = parsed.set(drivername=_DRIVERS[backend])
        # Options may hold a password too, so messages show the URL without them.
        self.url = parsed.set(query={}).render_as_string(hide_password=True)
        self.is_sqlite = backend == "sqlite"
        self.file = Path(parsed.database) if self.is_sqlite and parsed.database else None
        self.read_only = self.file is not None and is_read_only(self.file)
        if self.file is not None and self.read_only:
            self.engine = read_only_engine(self.file)
        else:
            self.engine = sqlite_engine(parsed) if self.is_sqlite else postgres_engine(parsed)
        event.listen(self.engine, "handle_error", _leave_out_data)
        self._stop = threading.Event()

    @classmethod
    def from_settings(cls, settings: "Settings") -> "Database":
        """The database that the settings name."""
        return cls(settings.database_url.get_secret_value())

    def wait_until(self, stop: threading.Event) -> None:
        """From now on, `run` waits for the database no longer once `stop` is set."""
        self._stop = stop

    def check_writable(self) -> None:
        """Raise `DatabaseError` if it is a file that can only be read here."""
        if self.read_only:
            raise DatabaseError(f"{self.url}: {_ONLY_READ}")

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction that may write: committed at the end, rolled back on an exception.

        Raises `DatabaseError` if the database does not answer.
        """
        with self.translated(), self._transaction() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One read-only transaction, in which every statement sees the same moment.

        Raises `DatabaseError` if the database does not answer.
        """
        options = {"writes": False} if self.is_sqlite else _POSTGRES_SNAPSHOT
        with (
            self.translated(),
            self.engine.connect().execution_options(**options) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            if not self.is_sqlite:
                # An export may wait long for the store. It holds no lock, so no limit is needed.
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield session

    def run(self, work: Callable[[Session], T], *, patience: float = PATIENCE_SECONDS) -> T:
        """Run `work` in one transaction, commit, and return its result.

        `work` runs again while the database is away or after a deadlock. So it must be safe to
        repeat even if the first commit succeeded; the result is that of the last run. Raises
        `DatabaseError` after `patience` seconds, or at once if waiting can't help or is to stop.
        """
        deadline = time.monotonic() + patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                with self._transaction() as session:
                    return work(session)
            except exc.DBAPIError as error:
                if not _passing(error):
                    raise self._translation(error) from error
                if time.monotonic() + pause > deadline or self._stop.is_set():
                    raise DatabaseError(f"{self.url}: {first_line(error.orig or error)}") from error
                log.warning(
                    "waiting for the database %s: %s", self.url, first_line(error.orig or error)
                )
            self._stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with (
            self.engine.connect() as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Within the block, a database that does not answer raises `DatabaseError`."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translation(error) from error

    def _translation(self, error: exc.DBAPIError) -> Exception:
        """The error to raise: `DatabaseError` if an operator must act; else, for a bug, `error`."""
        misnamed = _misnamed(error, self.url)
        if misnamed is not None:
            return SettingsError(misnamed)
        if "readonly database" in str(error.orig):
            return DatabaseError(f"{self.url}: {_ONLY_READ}")
        if "disk I/O error" in str(error.orig) and self.file is not None and is_full(self.file):
            return DatabaseError(f"{self.url}: its disk is full; reading needs some room too")
        if getattr(error.orig, "sqlstate", None) == _NO_PERMISSION:
            return PermissionDenied(f"{self.url}: {first_line(error.orig or error)}")
        if _passing(error) or isinstance(error, exc.OperationalError | exc.InterfaceError):
            return DatabaseError(f"{self.url}: {first_line(error.orig or error)}")
        return error


def _misnamed(error: exc.DBAPIError, url: str) -> str | None:
    """What is wrong with the database's address, where it is that."""
    if "not a database" in str(error.orig):
        return f"{url}: this file is no database; name another"
    if isinstance(error, exc.ProgrammingError) and error.statement is None:
        return f"IMAGEMILL_DATABASE_URL: {first_line(error.orig or error)}"  # an option of libpq
    return None


def _passing(error: exc.DBAPIError) -> bool:
    """Whether the same transaction may succeed in a moment."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        # 08 connection, 40 rollback (deadlock, serialisation), 53 resources, 57P0x shutdown,
        # 55P03 lock timeout, 25P03 our transaction idled too long.
        return state[:2] in {"08", "40", "53"} or state[:4] == "57P0" or state in {"55P03", "25P03"}
    message = str(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        return any(words in message for words in ("locked", "busy", "disk is full"))
    # A refused connection has no SQLSTATE. If the password, role or database is wrong, waiting
    # does not help.
    return isinstance(error, exc.OperationalError | exc.InterfaceError) and not any(
        words in message for words in _REFUSALS
    )


def _leave_out_data(context: ExceptionContext) -> None:
    """Remove quoted data from an error, both in the driver's exception and in SQLAlchemy's.

    Postgres names the row that broke a constraint, and quotes values that it can't read. Rows hold
    prompts, and an exception ends in logs, in tracebacks and on a terminal.
    """
    said = context.original_exception
    primary = getattr(getattr(said, "diag", None), "message_primary", None)
    state = getattr(said, "sqlstate", None)
    if primary is None or state is None:
        return  # errors of SQLite and of the driver itself name columns and quote no values
    kept = _QUOTED.sub('"…"', primary) if state.startswith(_DATA_EXCEPTION) else primary
    said.args = (kept,)
    wrapped = context.sqlalchemy_exception
    if isinstance(wrapped, exc.DBAPIError):
        wrapped.args = (f"({type(said).__module__}.{type(said).__name__}) {kept}",)
