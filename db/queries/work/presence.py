"""When a worker process counts as alive, when as working, and which names mean it."""

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.errors import UsageError
from imagemill.db.tables import Shift, Worker

ALIVE_SECONDS = 120.0
"""A worker that was not seen for this long is not shown as alive."""

LOST_SECONDS = 45.0
"""After so long people are told that a worker is lost. A sign of life comes every half minute or
sooner; until `ALIVE_SECONDS`, work may still wait for the worker, whose database may be slow."""


def alive() -> ColumnElement[bool]:
    """The worker process has not stopped, and was seen lately or holds a live lease."""
    seen = Worker.seen_at > seconds_from_now(-ALIVE_SECONDS)
    return Worker.stopped_at.is_(None) & (working() | seen)


def lost() -> ColumnElement[bool]:
    """The worker process has not stopped, but was not seen lately."""
    return Worker.stopped_at.is_(None) & (Worker.seen_at < seconds_from_now(-LOST_SECONDS))


def working() -> ColumnElement[bool]:
    """The worker process holds a live lease."""
    lease = select(Shift.worker_id).where(Shift.ended_at.is_(None), Shift.lease_until > now())
    return Worker.id.in_(lease)


def live_shifts(session: Session) -> int:
    """How many shifts hold a live lease."""
    return (
        session.scalar(
            select(func.count(Shift.id)).where(Shift.ended_at.is_(None), Shift.lease_until > now())
        )
        or 0
    )


def find_alive(session: Session, name: str) -> dict[int, str]:
    """The live worker processes that a name means: their ids, each with its process's name.

    `name` is that of a process (`NAME@HOST:PID`), of a worker with all its processes (`NAME@HOST`
    or `NAME`), or a host. Raises `UsageError` if no live worker has it.
    """
    rows = session.execute(select(Worker.id, Worker.name, Worker.host).where(alive())).all()
    found = {row.id: row.name for row in rows if name in names_of(row.name, row.host)}
    if not found:
        raise UsageError(f"no live worker {name}; `imagemill workers` lists them")
    return found


def names_of(process: str, host: str) -> set[str]:
    """The names that mean a process: its own, its worker's, long and short, and its host's."""
    node = process.rpartition(":")[0] or process
    return {process, node, node.partition("@")[0], host}
