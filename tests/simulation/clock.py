"""A clock for SQLite that moves when told to.

`db.clock` asks SQLite for its time with one expression, `strftime(format, 'now', 'N seconds')`.
On the simulation's connections that function is ours; production code does not know.
"""

import sqlite3
from datetime import UTC, datetime, timedelta

from sqlalchemy import event

from imagemill.db.database import Database


class VirtualClock:
    """The time of every database that it is installed on."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def install(self, database: Database) -> None:
        @event.listens_for(database.engine, "connect")
        def install(connection: sqlite3.Connection, _record: object) -> None:
            connection.create_function("strftime", 3, self._strftime)

    def text(self, seconds: float = 0) -> str:
        """The time as the tables hold it."""
        return f"{self.now + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S.%f}"

    def _strftime(self, form: str, base: str, modifier: str) -> str:
        assert (form, base) == ("%Y-%m-%d %H:%M:%f", "now")
        return self.text(float(modifier.removesuffix(" seconds")))[:-3]
