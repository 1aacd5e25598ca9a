"""A person's own SELECT, run so that the database itself refuses everything else.

On Postgres it runs in a read-only transaction and behind a cursor, as one statement: what follows a
`;` is refused, and so is an end of the transaction. On SQLite the file is opened for reading alone,
and an authorizer lets nothing but reads through. Both stop a statement that takes too long.
"""

import json
import math
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import exc, text

from imagemill.db.database import Database
from imagemill.db.engines import read_only_address
from imagemill.db.errors import DatabaseError, UsageError, first_line

PAGE = 2_000
"""Rows that are in memory at once."""

SECONDS = 60.0
"""How long a page of the answer may take, where nothing else is said."""

_READS = {"select", "with", "values"}
_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)

_SQLITE_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_SQLITE_PRAGMAS = {"database_list", "table_info", "table_xinfo", "table_list", "index_list"}
"""What a view of ours asks, and what describes tables; none of them changes anything."""
_STEPS = 20_000
"""Instructions of SQLite between two looks at the clock."""

_POSTGRES = {
    "isolation_level": "REPEATABLE READ",
    "postgresql_readonly": True,
    "stream_results": True,
    "no_parameters": True,  # else a % in the query would be taken for a parameter
    "max_row_buffer": PAGE,
}
_TOO_LONG = "57014"
"""The SQLSTATE of a statement that was stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The columns of a query's answer, and its rows as a stream of pages of at most `PAGE`."""

    columns: Sequence[str]
    pages: Iterator[list[tuple[Any, ...]]]

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows one by one; of the same stream as `pages`."""
        return (row for page in self.pages for row in page)


@contextmanager
def answering(database: Database, query: str, *, seconds: float = SECONDS) -> Iterator[Answer]:
    """Run a SELECT; within the block its answer can be read, all of one moment.

    Args:
        database: where; its schema is not checked, so any version's may be asked.
        query: one SELECT (or WITH, VALUES) in the database's own SQL.
        seconds: how long the database may work on a page of the answer.

    Raises:
        UsageError: the query is wrong, takes too long, or would do more than read.
        DatabaseError: the database does not answer.
    """
    _check(query)
    if database.file is not None:
        with _of_sqlite(database, query, seconds) as answer:
            yield answer
    else:
        with _of_postgres(database, query, seconds) as answer:
            yield answer


def _check(query: str) -> None:
    """Refuse at once, in our words, what the database would refuse in its own."""
    found = _FIRST_WORD.match(query)
    word = found.group(1) if found else ""
    if word.lower() not in _READS:
        begins = f"this one begins with {word.upper()}" if word else "this one has no word"
        raise UsageError(f"a query begins with SELECT, WITH or VALUES; {begins}")
    if "\0" in query or any("\ud800" <= letter <= "\udfff" for letter in query):
        raise UsageError("the query has a character that is none in a database")


@contextmanager
def _of_postgres(database: Database, query: str, seconds: float) -> Iterator[Answer]:
    limits = {
        "statement_timeout": f"{math.ceil(seconds * 1000)}",
        "idle_in_transaction_session_timeout": "0",  # whoever reads the answer may be slow
        "TimeZone": "UTC",
    }
    connecting = database.engine.connect().execution_options(**_POSTGRES)
    with database.translated(), connecting as connection:
        for name, value in limits.items():
            connection.execute(
                text(f"SELECT set_config('{name}', :value, true)"),
                {"value": value},
                execution_options={"stream_results": False, "no_parameters": False},
            )
        with _worded(seconds):
            result = connection.exec_driver_sql(query)
            pages = (list(map(tuple, page)) for page in result.partitions(PAGE))
            yield Answer(columns=tuple(result.keys()), pages=pages)


@contextmanager
def _worded(seconds: float) -> Iterator[None]:
    """Within it, what Postgres says against a query comes out as a `UsageError`."""
    try:
        yield
    except exc.DBAPIError as error:
        said = getattr(error.orig, "diag", None)
        state = getattr(error.orig, "sqlstate", None)
        if state == _TOO_LONG:
            raise _too_long(seconds) from None
        if said is None or state is None or state[:2] in {"08", "53", "57"}:
            raise
        hint = f"; {said.message_hint}" if said.message_hint else ""
        raise UsageError(f"the query: {said.message_primary}{hint}") from None


@contextmanager
def _of_sqlite(database: Database, query: str, seconds: float) -> Iterator[Answer]:
    assert database.file is not None
    try:
        connection = sqlite3.connect(
            read_only_address(database.file),
            uri=True,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise DatabaseError(f"{database.url}: {first_line(error)}") from None
    clock = _Clock(seconds)
    with closing(connection), _sqlite_errors(database, clock):
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(clock.is_over, _STEPS)
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description or ()]
        yield Answer(columns=tuple(names), pages=_pages(cursor, names, clock))


def _pages(
    cursor: sqlite3.Cursor, names: Sequence[str], clock: "_Clock"
) -> Iterator[list[tuple[Any, ...]]]:
    typed = any(name in _BY_NAME for name in names)
    while True:
        clock.start()
        if not (page := cursor.fetchmany(PAGE)):
            return
        if typed:
            page = [
                tuple(
                    _read(name, value) if name in _BY_NAME else value
                    for name, value in zip(names, row, strict=True)
                )
                for row in page
            ]
        yield page


class _Clock:
    """How long SQLite works on a page. It asks now and then, and stops where this says so."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start()

    def start(self) -> None:
        """Begin with a new page."""
        self._until = time.monotonic() + self.seconds

    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._until


@contextmanager
def _sqlite_errors(database: Database, clock: _Clock) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        said = first_line(error)
        if "interrupted" in said:
            if not clock.is_over():  # Python tells SQLite alone of a Ctrl-C in the handler
                raise KeyboardInterrupt from None
            raise _too_long(clock.seconds) from None
        if any(words in said for words in ("locked", "unable to open", "disk", "not a database")):
            raise DatabaseError(f"{database.url}: {said}") from None
        if "authoriz" in said or "prohibited" in said:
            said = "it may only read here"
        raise UsageError(f"the query: {said}") from None


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    reads = action in _SQLITE_READS
    asks = action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _SQLITE_PRAGMAS
    return sqlite3.SQLITE_OK if reads or asks else sqlite3.SQLITE_DENY


def _too_long(seconds: float) -> UsageError:
    return UsageError(f"the query was stopped after {seconds:g} s; --timeout SECONDS gives it more")


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


_BY_NAME: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    dict.fromkeys(("created_at", "opened_at", "finished_at", "failed_at"), _time)
    | dict.fromkeys(("extras", "options", "defaults", "labels"), json.loads)
)
"""How texts of SQLite are read that Postgres has a type for, by the names of the views' columns."""


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _BY_NAME[name](value)
    except (ValueError, RecursionError):  # somebody's own column of that name, or no JSON that
        return value  # Python reads
