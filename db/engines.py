"""Engines for each kind of database, and what their files are like: how connections begin."""

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url

_SMALL_FILES = 1 << 16
"""The bytes that SQLite's two small files need beside the database."""

_SQLITE_BUSY_MS = 30_000
_SQLITE_LOOK_SECONDS = 0.02

_IDLE_MS = 30_000
"""How long a writing transaction may be idle before Postgres ends it. Our transactions wait for
nothing but the database, so only a frozen process is idle, and it must not keep its locks."""


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


def postgres_engine(url: URL) -> Engine:
    """An engine for PostgreSQL, whose server ends what a frozen process has begun."""
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


def is_read_only(file: Path) -> bool:
    """Whether a SQLite file is there that can't be written, or whose folder can't."""
    try:
        there = file.is_file() and os.access(file, os.R_OK)
    except OSError:
        return False  # whoever opens it says what is wrong
    return there and not (os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK))


def is_full(file: Path) -> bool:
    """Whether SQLite's two small files beside its own find no room."""
    space = os.statvfs(file.absolute().parent)
    return space.f_bavail * space.f_frsize < _SMALL_FILES


def read_only_engine(file: Path) -> Engine:
    """An engine for the SQLite file of a finished run on a read-only disk.

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
    immutable = is_read_only(file) and not _has_a_log(file)
    return f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"


def _has_a_log(file: Path) -> bool:
    """Whether one of the files is there that SQLite keeps beside a database in WAL mode."""
    return any(file.with_name(file.name + suffix).exists() for suffix in ("-wal", "-shm"))


def sqlite_engine(url: URL) -> Engine:
    """An engine for a SQLite file that may be written, by several processes at once."""
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
