"""The page of the database's tables, written from the classes of `db/tables/`."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import CheckConstraint, Column, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from imagemill.db.tables import Base

_HEAD = """# The tables

Written by `python -m tools.pages` from `db/tables/`; a test holds that it is current.

Programs read the [views](database.md#reading-it), which keep their columns. Tables are for those \
who work on imagemill: a new version may add columns and tables. Types are PostgreSQL's. \
[database.md](database.md#tables) says what grows with what, [states.md](states.md) who changes it.
"""

_DIALECT = postgresql.dialect()


def page() -> str:
    """The text of docs/tables.md: a section for each table, by its name."""
    classes = {each.__tablename__: each for each in Base.__subclasses__()}
    return "\n".join([_HEAD, *(_section(classes[name]) for name in sorted(classes))])


def _section(cls: type[Base]) -> str:
    table = cls.__table__
    assert isinstance(table, Table)
    said = _said(cls)
    rows = [_row(column, said.get(column.name, "")) for column in table.columns]
    parts = [
        f"## `{table.name}`\n",
        " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()) + "\n",
        "| column | type | |\n| --- | --- | --- |",
        *rows,
    ]
    rules = sorted(_rules(table))
    return "\n".join([*parts, "", *rules, ""] if rules else [*parts, ""])


def _row(column: Column[Any], meaning: str) -> str:
    facts = [column.type.compile(dialect=_DIALECT).lower()]
    facts += ["or NULL"] if column.nullable else []
    notes = ["the key"] if column.primary_key else []
    notes += ["unique"] if column.unique else []
    notes += [f"of `{key.target_fullname}`" for key in column.foreign_keys]
    told = "; ".join([*notes, *([meaning] if meaning else [])])
    return f"| `{column.name}` | {' '.join(facts)} | {told} |"


def _rules(table: Table) -> Iterator[str]:
    """What the database itself refuses, and what it finds quickly."""
    for rule in table.constraints:
        if isinstance(rule, CheckConstraint):
            yield f"- always: `{rule.sqltext}`"
        elif isinstance(rule, UniqueConstraint) and len(rule.columns) > 1:
            yield f"- unique together: {_names(rule.columns)}"
    for index in table.indexes:
        where = index.dialect_options["postgresql"]["where"]
        which = f", where `{where}`" if where is not None else ""
        kind = "unique index" if index.unique else "index"
        yield f"- {kind}: {_names(index.columns)}{which}"


def _names(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def _said(cls: type[Base]) -> dict[str, str]:
    """The text below each column in the class's code; Python itself keeps none of them."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[before.target.id] = " ".join(text.value.split())
    return found
