"""When a worker process counts as alive, and when as working."""

from sqlalchemy import ColumnElement, select

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.tables import Shift, Worker

ALIVE_SECONDS = 120.0
"""A worker that was not seen for this long is not shown as alive."""


def alive() -> ColumnElement[bool]:
    """The worker process has not stopped, and was seen lately or holds a live lease."""
    seen = Worker.seen_at > seconds_from_now(-ALIVE_SECONDS)
    return Worker.stopped_at.is_(None) & (working() | seen)


def working() -> ColumnElement[bool]:
    """The worker process holds a live lease."""
    lease = select(Shift.worker_id).where(Shift.ended_at.is_(None), Shift.lease_until > now())
    return Worker.id.in_(lease)
