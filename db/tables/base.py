"""What all tables share: types of columns, names of constraints, partial indexes."""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TextClause,
)
from sqlalchemy.orm import DeclarativeBase

from imagemill.db.clock import UtcDateTime
from imagemill.db.states import ImageState, JobState, Outcome

Id = BigInteger().with_variant(Integer, "sqlite")
Hash = String(64)
"""A SHA-256 in hex."""
OWNER_CHARACTERS = 64
"""How long the name of an owner or of a key may be."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The base of all tables: names of constraints and types of columns."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's declarative API reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        str: Text,
    }


def one_of(column: str, words: type[JobState | ImageState | Outcome]) -> str:
    """The condition that a column holds one of the words."""
    return f"{column} IN ({', '.join(repr(word.value) for word in words)})"


class DialectIndex(Index):
    """An index with options of dialects (`postgresql_where=…`), looked at when somebody asks.

    SQLAlchemy would check them at once, and import every driver's module of both databases for it.
    Only migrations and tests ask, and every command imports the tables.
    """

    def __init__(self, name: str, *columns: str, unique: bool, options: Mapping[str, Any]) -> None:
        super().__init__(name, *columns, unique=unique)
        self._options = options

    @cached_property
    def dialect_options(self) -> Any:
        """The options by dialect and name, checked by SQLAlchemy."""
        return Index(self.name, **self._options).dialect_options


def partial(
    name: str, *columns: str, where: TextClause, unique: bool = False, **options: Any
) -> Index:
    """An index over few rows of a large table; `options` are a dialect's own."""
    conditions = {"postgresql_where": where, "sqlite_where": where}
    return DialectIndex(name, *columns, unique=unique, options=conditions | options)
