"""The database's clock, in SQL: the only clock that leases, retries and records use.

The clocks of two machines may differ, and a wrong clock would end another worker's lease too early.
So times are never taken from the process: `now()` and `seconds_from_now(s)` are SQL expressions,
and `UtcDateTime` is their column type. The clock moves on within a transaction, also on Postgres
(`clock_timestamp`).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class UtcDateTime(TypeDecorator[datetime]):
    """`timestamptz` on Postgres, ISO text in UTC on SQLite; always aware datetimes in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time in UTC. Raises `ValueError` for a datetime without a time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a datetime without a time zone: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time as an aware datetime in UTC. SQLite returns naive ones, which are in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801 - reads like the SQL function it is
    """The database's time plus a number of seconds, given as a number or an SQL expression."""

    type = UtcDateTime()
    inherit_cache = True
    name = "seconds_from_now"


def now() -> seconds_from_now:
    """The database's time."""
    return seconds_from_now(0)


@compiles(seconds_from_now, "postgresql")
def _postgresql(element: seconds_from_now, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(seconds_from_now, "sqlite")
def _sqlite(element: seconds_from_now, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    # The same format as SQLAlchemy's text of a DateTime: then texts compare as times do.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({seconds}) || ' seconds') || '000')"
