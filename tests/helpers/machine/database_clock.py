"""The clock of one PostgreSQL database, which can be set.

imagemill asks `clock_timestamp()` for every time. A function of that name in a schema before
`pg_catalog` answers instead of PostgreSQL's own, in this database alone.
"""

import psycopg
from psycopg import sql

_INSTALL = """
CREATE SCHEMA faked_clock;
CREATE SEQUENCE faked_clock.ahead_ms MINVALUE -100000000000 START 0;
SELECT setval('faked_clock.ahead_ms', 0);
CREATE FUNCTION faked_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
  SELECT pg_catalog.clock_timestamp() + pg_catalog.make_interval(
    secs => pg_catalog.pg_sequence_last_value('faked_clock.ahead_ms') / 1000.0) $$;
GRANT USAGE ON SCHEMA faked_clock TO PUBLIC;
GRANT SELECT ON faked_clock.ahead_ms TO PUBLIC;
"""
# A sequence, because PostgreSQL puts such a function into the query: it is as quick as its own.


class DatabaseClock:
    """The clock of an empty database; connections that are opened from now on have it.

    `dsn` is for psycopg.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        with self._connection() as connection:
            connection.execute(_INSTALL)
            name = sql.Identifier(connection.info.dbname)
            # Tables are made in the first schema, `public`; functions are looked up in this order.
            path = sql.SQL("ALTER DATABASE {} SET search_path = public, faked_clock, pg_catalog")
            connection.execute(path.format(name))

    def advance(self, seconds: float) -> None:
        """Set it ahead, or back where negative. Raises `psycopg.Error`."""
        with self._connection() as connection:
            connection.execute(
                "SELECT setval('faked_clock.ahead_ms', last_value + %s) FROM faked_clock.ahead_ms",
                [round(seconds * 1000)],
            )

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
