"""`COPY` on PostgreSQL, in its text format.

The text can be written before there is a connection, by a thread that has nothing to wait for.
`Written` is the text of the columns that are known by then.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

from sqlalchemy import JSON, Column, Connection, Table, exc

_SENT = 500
"""Lines that are sent at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Some columns of rows as COPY's text has them, each of `pieces` with a part of every line.

    A piece may be one text without end, which all rows get; so the lengths may differ.
    """

    columns: tuple[str, ...]
    pieces: tuple[Iterable[str], ...]

    @property
    def lines(self) -> Iterable[str]:
        """The rows' lines."""
        return map("\t".join, zip(*self.pieces, strict=False))

    @property
    def kept(self) -> "Written":
        """The same with its lines in a list: a transaction that is tried again sends them again."""
        # Not `list(self.lines)`, which would keep the interpreter for all rows from the thread
        # that loads: between two turns of a loop another thread may go on.
        lines = [line for line in self.lines]  # noqa: C416 - see above
        return Written(columns=self.columns, pieces=(lines,))

    def beside(self, others: "Written") -> "Written":
        """The same rows with others' columns behind their own."""
        return Written(
            columns=(*self.columns, *others.columns), pieces=(*self.pieces, *others.pieces)
        )


def write_rows(
    table: Table,
    columns: Mapping[str, Sequence[Any]],
    *,
    shared: Mapping[str, Any],
    dialect: Any,
) -> Written:
    """Write equally long columns of values, and `shared` ones, which have one value in all rows.

    Without `columns` there is one line, again and again, to be put `beside` others.
    """
    fixed = {name: _only(table.columns[name], value, dialect) for name, value in shared.items()}
    given: dict[str, Iterable[str]] = {}
    for name, values in columns.items():
        adapt = adapter(table.columns[name], dialect)
        if adapt is None and _are_equal(values):
            fixed[name] = _as_text(values[0])
        else:
            given[name] = _as_texts(values if adapt is None else list(map(adapt, values)))
    # What is equal in all rows is one text, which is put at the end of each.
    rows = max(map(len, columns.values()), default=None)
    ends = ["\t".join(fixed.values())] if fixed else []
    all_ends = [repeat(end) if rows is None else repeat(end, rows) for end in ends]
    return Written(columns=(*given, *fixed), pieces=(*given.values(), *all_ends))


def _only(column: Column[Any], value: Any, dialect: Any) -> str:
    adapt = adapter(column, dialect)
    return _as_text(value if adapt is None else adapt(value))


def copy_rows(connection: Connection, table: Table, rows: Written) -> None:
    """Insert rows within the connection's transaction."""
    into = ", ".join(quoted(connection, table, rows.columns))
    statement = f"COPY {quoted_name(connection, table)} ({into}) FROM STDIN"
    lines = iter(rows.lines)
    dialect: Any = connection.dialect
    driver: Any = connection.connection.driver_connection
    errors: Any = dialect.dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            while some := list(islice(lines, _SENT)):
                copy.write("\n".join([*some, ""]))
    except errors as error:
        # The same error as from any other statement, so that `Database.run` knows whether it may
        # try again.
        lost = dialect.is_disconnect(error, driver, None)
        if lost:
            connection.invalidate(error)
        raise exc.DBAPIError.instance(
            statement,
            None,
            error,
            errors,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=dialect,
        ) from error


def quoted_name(connection: Connection, table: Table) -> str:
    """A table's name as SQL has it."""
    return connection.dialect.identifier_preparer.format_table(table)


def quoted(connection: Connection, table: Table, names: Iterable[str]) -> list[str]:
    """The names of a table's columns as SQL has them."""
    quote = connection.dialect.identifier_preparer
    return [quote.format_column(table.columns[name]) for name in names]


def adapter(column: Column[Any], dialect: Any) -> Callable[[Any], Any] | None:
    """What makes of a column's value the one that the database stores; None where it is the same.

    JSON becomes text. Images of one kind share their options, so equal objects are written once.
    """
    kind: Any = column.type.dialect_impl(dialect)
    if not isinstance(kind, JSON):
        adapt: Callable[[Any], Any] | None = kind.bind_processor(dialect)
        return adapt
    known: dict[int, str | None] = {}

    def as_json(value: Any) -> str | None:
        if value is None and kind.none_as_null:
            return None
        if id(value) not in known:
            known[id(value)] = json.dumps(value)
        return known[id(value)]

    return as_json


def _are_equal(values: Sequence[Any]) -> bool:
    return values[0] == values[-1] and values.count(values[0]) == len(values)


_SIGNS = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


def _as_texts(values: Sequence[Any]) -> Iterable[str]:
    """A column's values in COPY's text format. Most columns have nothing that must be escaped."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return map(str, values)
    if kinds == {str} and _SIGNS.search("".join(values)) is None:
        return values
    return map(_as_text, values)


def _as_text(value: Any) -> str:
    """A value in COPY's text format."""
    if isinstance(value, str):
        if _SIGNS.search(value) is None:
            return value
        return _SIGNS.sub(lambda sign: _ESCAPES[sign[0]], value)
    return r"\N" if value is None else str(value)
