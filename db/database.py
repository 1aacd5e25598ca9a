"""Opens the database, and runs transactions that survive a lost connection.

`Database.run` runs a function in one transaction. It runs the function again if the connection
breaks, if the database ends a deadlock, or if nobody knows whether the commit succeeded. That is
safe because every statement in `db.queries` names the state that it starts from: a second run
finds another state and changes nothing.
"""

import json
import logging
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, exc, make_url, text
from sqlalchemy.orm import Session

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

_SMALL_FILES = 1 << 16
"""The bytes that SQLite's two small files need beside the database."""

_NO_PERMISSION = "42501"
"""The SQLSTATE of a right that the role does not have."""

_SQLITE_BUSY_MS = 30_000
_SQLITE_LOOK_SECONDS = 0.02

_IDLE_MS = 30_000
"""How long a writing transaction may be idle before Postgres ends it. Our transactions wait for
nothing but the database, so only a frozen process is idle, and it must not keep its locks."""

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
        self.read_only = self.file is not None and _is_read_only(self.file)
        if self.file is not None and self.read_only:
            self.engine = _read_only_engine(self.file)
        else:
            self.engine = _sqlite_engine(parsed) if self.is_sqlite else _postgres_engine(parsed)
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
        if "disk I/O error" in str(error.orig) and self.file is not None and _is_full(self.file):
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


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database by its URL, None for any other."""
    try:
        found = make_url(url)
    except (exc.ArgumentError, ValueError):
        return None  # `Database` raises the error for it
    if found.get_backend_name() != "sqlite" or found.database in (None, "", ":memory:"):
        return None
    return Path(found.database or "")


def _json(text: str | bytes) -> Any:
    """A JSON column's value. Text that Python can't read becomes a marker, not an exception.

    An exception would fail the whole query, and with it the process that made it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # thousands of digits, thousands of brackets
        return {_UNREADABLE: type(error).__name__}


_UNREADABLE = "unreadable JSON"
"""A field that no specification and no group has, so such a document is refused later."""


def _postgres_engine(url: URL) -> Engine:
    engine = create_engine(
        url.set(query={}),  # moved to connect_args: an engine's repr would show passwords in them
        json_deserializer=_json,
        hide_parameters=True,  # parameters hold prompts, and errors would carry them into logs
        pool_pre_ping=True,
        pool_size=5,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 10,
            "application_name": "imagemill",
            # Without these, a thread would wait two hours for a server that has vanished.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            # See `_IDLE_MS`.
            "options": f"-c idle_in_transaction_session_timeout={_IDLE_MS}",
            **dict(url.query),
        },
    )
    # Insert many rows with one statement. Many statements would use psycopg's pipeline mode: a
    # client that freezes in the middle of it is not idle to Postgres and keeps its locks for ever.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    return engine


def _is_read_only(file: Path) -> bool:
    """Whether a SQLite file is there that can't be written, or whose folder can't."""
    try:
        there = file.is_file() and os.access(file, os.R_OK)
    except OSError:
        return False  # whoever opens it says what is wrong
    return there and not (os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK))


def _is_full(file: Path) -> bool:
    """Whether SQLite's two small files beside its own find no room."""
    space = os.statvfs(file.absolute().parent)
    return space.f_bavail * space.f_frsize < _SMALL_FILES


def _read_only_engine(file: Path) -> Engine:
    """A finished run on a read-only disk.

    SQLite wants to make two files beside one that is in WAL mode, for its readers too. Where none
    of them is there nobody writes, and it may be told that the file never changes.
    """
    how = {"mode": "ro", "uri": "true"}
    if not _has_a_log(file):
        how["immutable"] = "1"
    address = file.absolute().as_uri().replace("file://", "file:", 1)
    return _sqlite_file_engine(URL.create("sqlite", database=address, query=how), pragmas=())


def read_only_address(file: Path) -> str:
    """A `file:` URL that opens a SQLite file for reading alone, also on a read-only disk."""
    immutable = _is_read_only(file) and not _has_a_log(file)
    return f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"


def _has_a_log(file: Path) -> bool:
    """Whether one of the files is there that SQLite keeps beside a database in WAL mode."""
    return any(file.with_name(file.name + suffix).exists() for suffix in ("-wal", "-shm"))


def _sqlite_engine(url: URL) -> Engine:
    return _sqlite_file_engine(
        url,
        pragmas=(
            *("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"),
            f"busy_timeout={_SQLITE_BUSY_MS}",
        ),
    )


def _begin_sqlite(connection: Any) -> None:
    # A transaction that writes takes the lock at once: one that read first could not upgrade.
    write = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _sqlite_file_engine(url: URL, *, pragmas: Sequence[str]) -> Engine:
    """An engine whose connections begin with these pragmas."""
    engine = create_engine(
        url,
        json_deserializer=_json,
        hide_parameters=True,
        connect_args={"timeout": _SQLITE_BUSY_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver begins transactions late, so its handling is off and we begin them ourselves.
        connection.isolation_level = None
        for pragma in pragmas:
            _run_pragma(connection, pragma)

    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _run_pragma(connection: sqlite3.Connection, pragma: str) -> None:
    """Run a pragma, and wait while the file is locked.

    SQLite's own waiting does not cover the start of the write-ahead log: in a new file, that fails
    at once while another process writes.
    """
    give_up = time.monotonic() + _SQLITE_BUSY_MS / 1000
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(_SQLITE_LOOK_SECONDS)
        else:
            return


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
