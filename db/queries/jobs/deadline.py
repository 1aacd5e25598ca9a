"""A job's deadline as it is stored."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement

from imagemill.db.clock import seconds_from_now


def deadline_of(
    given: timedelta | datetime | None,
) -> datetime | ColumnElement[datetime] | None:
    """A time as it is, and a time from now by the database's clock."""
    return seconds_from_now(given.total_seconds()) if isinstance(given, timedelta) else given
