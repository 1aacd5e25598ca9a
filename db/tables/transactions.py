"""Postgres' number of a transaction, as a column.

SQLite has one writer at a time, so there ids become visible in their order, and the number is 0.
"""

from typing import Any

from sqlalchemy import Integer, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine, UserDefinedType


class _Xid8(UserDefinedType[int]):
    """`xid8`: 64 bits, which never start again, unlike those of `xmin`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Its name in DDL."""
        return "xid8"


class TransactionId(TypeDecorator[int]):
    """`xid8` on Postgres, a plain number on SQLite."""

    impl = Integer
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> TypeEngine[int]:
        """The type of this database."""
        found: TypeEngine[int] = _Xid8() if dialect.name == "postgresql" else Integer()
        return dialect.type_descriptor(found)  # type: ignore[no-any-return]  # untyped there


class this_transaction(FunctionElement[int]):  # noqa: N801 - reads like the SQL function it is
    """The number of the transaction that writes."""

    type = TransactionId()
    inherit_cache = True
    name = "this_transaction"


@compiles(this_transaction, "postgresql")
def _postgresql(element: this_transaction, compiler: SQLCompiler, **kw: Any) -> str:
    del element, compiler, kw
    return "pg_current_xact_id()"


@compiles(this_transaction, "sqlite")
def _sqlite(element: this_transaction, compiler: SQLCompiler, **kw: Any) -> str:
    del element, compiler, kw
    return "0"
