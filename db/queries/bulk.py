"""Many rows at once, in the way that is fastest for each database.

PostgreSQL gets `COPY` instead of an INSERT with tens of thousands of parameters, and one array
instead of a list of a thousand placeholders. Most of the time of those goes into writing and
parsing the statement's text. SQLite has no such way and needs none.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, any_, exc, insert, literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session

_UPSERTED = 500
"""Rows of one statement: together fewer parameters than either database accepts."""


def insert_many(session: Session, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns into a mapped class's table.

    It belongs to the session's transaction. Columns that are left out get their defaults.
    """
    if not rows:
        return
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        _copy(connection, table.__table__, rows)
    else:
        # The table, not the class: the ORM would do as much work again for each row.
        connection.execute(insert(table.__table__), rows)


def among(
    session: Session, column: InstrumentedAttribute[Any], values: Collection[Any]
) -> ColumnElement[bool]:
    """`column IN (values)`, as one parameter where the database has arrays."""
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    return column.in_(list(values))


def insert_new(session: Session, table: type[Any], values: Any) -> Any:
    """`INSERT … ON CONFLICT DO NOTHING` of a row's values, or of several rows', in one statement.

    It names no conflict target. If it named one, Postgres would raise an error when two
    transactions insert the same row at once and another unique index notices first.
    """
    postgres = session.get_bind().dialect.name == "postgresql"
    insert: Any = postgresql.insert(table) if postgres else sqlite.insert(table)
    return insert.values(values).on_conflict_do_nothing()


def insert_or_update(
    session: Session, table: type[Any], row: Mapping[str, Any], *, keys: Collection[str]
) -> Any:
    """The statement that inserts a row, or writes it over the one with the same `keys`."""
    postgres = session.get_bind().dialect.name == "postgresql"
    insert: Any = postgresql.insert(table) if postgres else sqlite.insert(table)
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
    postgres = session.get_bind().dialect.name == "postgresql"
    insert: Any = postgresql.insert(table) if postgres else sqlite.insert(table)
    for start in range(0, len(ordered), _UPSERTED):
        statement = insert.values(ordered[start : start + _UPSERTED])
        columns = {c.name: statement.excluded[c.name] for c in table.__table__.columns}
        replaced = {name: column for name, column in columns.items() if name not in key}
        session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=replaced))


def _copy(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    dialect: Any = connection.dialect
    given = [column for column in table.columns if column.name in rows[0]]
    # The defaults that Python knows. The database adds its own.
    constants = {
        column: getattr(column.default, "arg", None)
        for column in table.columns
        if column.name not in rows[0] and column.default is not None
    }
    columns = [*given, *constants]
    names = [column.name for column in given]
    processors = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in columns]
    quote = dialect.identifier_preparer
    into = ", ".join(quote.format_column(column) for column in columns)
    statement = f"COPY {quote.format_table(table)} ({into}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    errors: Any = dialect.dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                values = (*(row[name] for name in names), *constants.values())
                copy.write_row(
                    [
                        value if process is None else process(value)
                        for value, process in zip(values, processors, strict=True)
                    ]
                )
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
