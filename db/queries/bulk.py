"""Many rows at once, in the way that is fastest for each database.

PostgreSQL gets `COPY` instead of an INSERT with tens of thousands of parameters, and one array
instead of a list of a thousand placeholders. Most of the time of those goes into writing and
parsing the statement's text. SQLite has no such way and needs none.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    String,
    Table,
    Text,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagemill.db.queries.copy_text import (
    Written,
    adapter,
    copy_rows,
    quoted,
    quoted_name,
    write_rows,
)

_UPSERTED = 500
"""Rows of one statement: together fewer parameters than either database accepts."""

_BETWEEN = "\x1f"
"""What divides texts that are sent as one: the unit separator, which hardly any text has."""


def insert_many(session: Session, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns into a mapped class's table.

    As `insert_columns` does, for rows that are made one by one.
    """
    if rows:
        insert_columns(session, table, {name: [row[name] for row in rows] for name in rows[0]})


def insert_columns(
    session: Session,
    table: Any,
    columns: Mapping[str, Sequence[Any]],
    *,
    shared: Mapping[str, Any] | None = None,
    written: Written | None = None,
) -> None:
    """Insert rows into a mapped class's table, given as equally long columns of values.

    `shared` are columns that have one value in all rows. It belongs to the session's transaction.
    Columns that are left out get their defaults. `written` are further columns, on PostgreSQL
    alone, whose values were written before.
    """
    if not any(map(len, columns.values())) and written is None:
        return
    connection = session.connection()
    target: Table = table.__table__
    # The defaults that Python knows. The database adds its own.
    constants = {
        column.name: getattr(column.default, "arg", None)
        for column in target.columns
        if column.default is not None
    } | dict(shared or {})
    given = {*columns, *(written.columns if written else ())}
    constants = {name: value for name, value in constants.items() if name not in given}
    if connection.dialect.name == "postgresql":
        rest = write_rows(target, columns, shared=constants, dialect=connection.dialect)
        copy_rows(connection, target, rest if written is None else written.beside(rest))
    else:
        _execute_many(connection, target, columns, constants)


def among(
    session: Session,
    column: InstrumentedAttribute[Any] | ColumnElement[Any],
    values: Collection[Any],
) -> ColumnElement[bool]:
    """`column IN (values)` as one parameter, of texts or whole numbers."""
    if is_postgres(session):
        array: Any = ARRAY(column.type)
        joined = _joined(values)
        if joined is not None:
            return column == any_(cast(func.string_to_array(joined, _BETWEEN), array))
        return column == any_(literal(list(values), array))
    each = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(each.c.value))


def is_postgres(session: Session) -> bool:
    """Whether the session's database is PostgreSQL; else it is SQLite."""
    return session.get_bind().dialect.name == "postgresql"


def insert_few(
    session: Session,
    table: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    unless_there: bool = False,
    empty_if: tuple[str, ColumnElement[bool]] | None = None,
) -> None:
    """Insert some rows that all have the same columns into a mapped class's table, in their order.

    With `unless_there`, a row that is there already by any unique index is left out. `empty_if`
    names a column of texts and a condition: where that holds, PostgreSQL stores an empty text.

    On PostgreSQL each column is one array. So the statement has the same text for any number of
    rows, and nobody has to write or plan it again; with a placeholder for each value that takes
    longer than the insert.
    """
    if not rows:
        return
    postgres = is_postgres(session)
    statement = _insertion(postgres, table.__table__, tuple(rows[0]), unless_there, empty_if)
    if not postgres:
        session.execute(statement, list(rows))
        return
    # Some words are members of an enumeration and others plain: an array has one type.
    arrays = {
        f"all_{name}": [str(row[name]) if isinstance(row[name], str) else row[name] for row in rows]
        for name in rows[0]
    }
    session.execute(statement, arrays)


@cache
def _insertion(
    postgres: bool,
    table: Table,
    names: tuple[str, ...],
    unless_there: bool,
    empty_if: tuple[str, ColumnElement[bool]] | None,
) -> Any:
    """The statement of `insert_few` for these columns, which is built once."""
    statement: Any = _insert_into(table, postgres=postgres)
    if postgres:
        arrays = [bindparam(f"all_{name}", type_=_array_of(table.c[name])) for name in names]
        given = func.unnest(*arrays).table_valued(*names, name="given").render_derived()
        values: dict[str, Any] = dict(given.c.items())
        if empty_if is not None:
            emptied, condition = empty_if
            values[emptied] = case((condition, ""), else_=values[emptied])
        statement = statement.from_select(names, select(*values.values()))
    if unless_there:
        statement = statement.on_conflict_do_nothing()
    return statement


def _array_of(column: Any) -> ARRAY[Any]:
    # Text, so that a value that is too long for its column is an error and not cut by a cast.
    return ARRAY(Text if isinstance(column.type, String) else column.type)


def among_given(postgres: bool, column: InstrumentedAttribute[Any], name: str) -> Any:
    """As `among`, for a statement that is built once; its parameter `name` is a `list_given`."""
    if postgres:
        array = func.string_to_array(bindparam(name, type_=Text), _BETWEEN)
        return column == any_(cast(array, ARRAY(column.type)))
    each = func.json_each(bindparam(name, type_=Text)).table_valued("value")
    return column.in_(select(each.c.value))


def list_given(postgres: bool, values: Iterable[str] | Iterable[int]) -> str:
    """The parameter for `among_given`: numbers, or texts of letters and digits."""
    return _BETWEEN.join(map(str, values)) if postgres else json.dumps(list(values))


def insert_new(session: Session, table: type[Any], values: Any) -> Any:
    """`INSERT … ON CONFLICT DO NOTHING` of a row's values, or of several rows', in one statement.

    It names no conflict target. If it named one, Postgres would raise an error when two
    transactions insert the same row at once and another unique index notices first.
    """
    insert = _insert_into(table, postgres=is_postgres(session))
    return insert.values(values).on_conflict_do_nothing()


def insert_or_update(
    session: Session, table: type[Any], row: Mapping[str, Any], *, keys: Collection[str]
) -> Any:
    """The statement that inserts a row, or writes it over the one with the same `keys`."""
    insert = _insert_into(table, postgres=is_postgres(session))
    others = {name: value for name, value in row.items() if name not in keys}
    statement = insert.values(row)
    return statement.on_conflict_do_update(index_elements=list(keys), set_=others)


def upsert(
    session: Session, table: type[Any], rows: Sequence[Mapping[str, Any]], *, key: Sequence[str]
) -> None:
    """Insert rows, or replace the whole row that has the same `key`; columns as in `insert_many`.

    They are written in the order of the key. So two transactions that write the same rows wait
    for each other, and can't deadlock.
    """
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in key))
    insert = _insert_into(table, postgres=is_postgres(session))
    for start in range(0, len(ordered), _UPSERTED):
        statement = insert.values(ordered[start : start + _UPSERTED])
        columns = {c.name: statement.excluded[c.name] for c in table.__table__.columns}
        replaced = {name: column for name, column in columns.items() if name not in key}
        session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=replaced))


def _insert_into(table: Any, *, postgres: bool) -> Any:
    """The database's own INSERT, which may say what to do ON CONFLICT."""
    # Each brings the modules of all its drivers, so every command imports that of its database.
    if postgres:
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415  # see above

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite  # noqa: PLC0415  # see above

    return sqlite.insert(table)


def _execute_many(
    connection: Connection,
    table: Table,
    columns: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Any],
) -> None:
    # SQLAlchemy's own statement would make a mapping of every row and look at each value again.
    def adapted(name: str, values: Iterable[Any]) -> Iterable[Any]:
        adapt = adapter(table.columns[name], connection.dialect)
        return values if adapt is None else map(adapt, values)

    names = ", ".join(quoted(connection, table, [*columns, *constants]))
    places = ", ".join("?" * (len(columns) + len(constants)))
    into = f"{quoted_name(connection, table)} ({names})"
    statement = f"INSERT INTO {into} VALUES ({places})"  # noqa: S608 - names of our own columns
    given = [adapted(name, values) for name, values in columns.items()]
    fixed = [repeat(*adapted(name, [value])) for name, value in constants.items()]
    rows = list(zip(*given, *fixed, strict=False))
    connection.exec_driver_sql(statement, rows)


def _joined(values: Collection[Any]) -> str | None:
    """All values as one text, with `_BETWEEN` between them.

    So psycopg has one value to convert and not thousands. None where the parts could not be told
    apart again: a value that is no text, is empty, or contains `_BETWEEN`.
    """
    if "" in values or set(map(type, values)) != {str}:
        return None
    joined = _BETWEEN.join(values)
    return joined if joined.count(_BETWEEN) == len(values) - 1 else None
