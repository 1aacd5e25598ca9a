"""The database's clock, in SQL: the only clock that leases, retries and records know.

`now()` and `seconds_from_now(s)` are SQL expressions; `UtcDateTime` is the column type that goes
with them. On Postgres the clock moves within a transaction (`clock_timestamp`), as on SQLite.
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
        """Refuse a naive datetime; hand over UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a datetime without a time zone: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite gives naive datetimes, which are UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801 - reads like the SQL function it is
    """The database's time plus so many seconds (a number or an SQL expression)."""

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
    # The same shape as SQLAlchemy's own text for a DateTime, so that texts compare as times do.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({seconds}) || ' seconds') || '000')"
