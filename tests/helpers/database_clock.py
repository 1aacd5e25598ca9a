"""The clock of one PostgreSQL database, which can be set.

imagemill asks `clock_timestamp()` for every time. A function of that name in a schema before
`pg_catalog` answers instead of PostgreSQL's own, in this database alone.
"""

import psycopg
from psycopg import sql

_INSTALL = """
CREATE SCHEMA faked_clock;
CREATE TABLE faked_clock.jumps (ahead interval NOT NULL);
INSERT INTO faked_clock.jumps VALUES ('0');
CREATE FUNCTION faked_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT pg_catalog.clock_timestamp() + (SELECT ahead FROM faked_clock.jumps)';
GRANT USAGE ON SCHEMA faked_clock TO PUBLIC;
GRANT SELECT ON faked_clock.jumps TO PUBLIC;
"""


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
                "UPDATE faked_clock.jumps SET ahead = ahead + make_interval(secs => %s)", [seconds]
            )

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
