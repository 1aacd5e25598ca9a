"""Workers and shifts: leases, their renewal, and the rescue of what a lost shift held."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sqlalchemy import and_, case, exists, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.labels import labels_as_text
from imagemill.db.queries.images import (
    RELEASED,
    Failure,
    in_state,
    ready_unless_cancelled,
    record_release,
    release,
)
from imagemill.db.queries.work.claims import RetryPolicy
from imagemill.db.queries.work.memory_needs import Card
from imagemill.db.queries.work.pins import inherited_pin
from imagemill.db.queries.work.presence import ALIVE_SECONDS
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Image, Job, Shift, Worker

_NO_LABELS: Mapping[str, str] = MappingProxyType({})

LOST = Failure(
    code="worker_lost",
    message="its worker died or hung while this image was being rendered",
    retryable=True,
    solo=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What a heartbeat brings back: whether to stop, and which jobs' images to let go of."""

    draining: bool
    stopped_jobs: frozenset[int]
    """Jobs with images in this shift that are paused or cancelled now."""


def register_worker(
    session: Session,
    *,
    name: str,
    host: str,
    pid: int,
    device: str,
    route: str,
    labels: Mapping[str, str] = _NO_LABELS,
) -> int:
    """Record a worker child that has just started; returns its id.

    It drains if another live child of its worker does: it may stand in for one that was told to.
    It is pinned as its worker or its host is. More than seven parameters: they are its row.
    """
    node = name.rpartition(":")[0] + ":"
    drained = exists().where(
        Worker.name.startswith(node, autoescape=True),
        Worker.draining,
        Worker.stopped_at.is_(None),
        Worker.seen_at > seconds_from_now(-ALIVE_SECONDS),
    )
    draining = bool(session.scalar(select(drained)))
    pin = inherited_pin(session, process=name, host=host)
    return session.scalars(
        insert(Worker)
        .values(
            name=name,
            host=host,
            pid=pid,
            device=device,
            route=route,
            draining=draining,
            labels=labels_as_text(labels),
            **pin,
        )
        .returning(Worker.id)
    ).one()


def see_worker(
    session: Session, worker_id: int, *, device: str | None = None, card: Card | None = None
) -> None:
    """Record that a worker child is alive, and the device and the memory that it has found."""
    values: dict[str, object] = {} if device is None else {"device": device}
    if card is not None:
        values |= {"memory_bytes": card.memory_bytes, "tuning": card.tuning}
    session.execute(update(Worker).where(Worker.id == worker_id).values(seen_at=now(), **values))


def is_draining(session: Session, worker_id: int) -> bool:
    """Whether an operator told this worker child to drain."""
    return bool(session.scalar(select(Worker.draining).where(Worker.id == worker_id)))


def stop_worker(session: Session, worker_id: int) -> None:
    """Record that a worker child has stopped in good order."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(stopped_at=now()))


def start_shift(session: Session, *, worker_id: int, lease_seconds: float) -> int:
    """Open a shift with a lease. Its id is the fence of everything that the shift changes."""
    return session.scalars(
        insert(Shift)
        .values(worker_id=worker_id, lease_until=seconds_from_now(lease_seconds))
        .returning(Shift.id)
    ).one()


def renew(session: Session, *, shift_id: int, lease_seconds: float) -> Orders | None:
    """Renew the lease. None if it was over already: the shift must stop and discard its work."""
    worker_id = session.scalar(
        update(Shift)
        .where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())
        .values(lease_until=seconds_from_now(lease_seconds))
        .returning(Shift.worker_id)
    )
    if worker_id is None:
        return None
    draining = session.scalar(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(seen_at=now())
        .returning(Worker.draining)
    )
    stopped = session.scalars(
        select(Job.id)
        .join(Image, Image.job_id == Job.id)
        .where(
            in_state(ImageState.LEASED),
            Image.shift_id == shift_id,
            Job.state.in_((JobState.PAUSED, JobState.CANCELLED)),
        )
        .distinct()
    )
    return Orders(draining=bool(draining), stopped_jobs=frozenset(stopped))


def end_shift(session: Session, *, shift_id: int, reason: str) -> bool:
    """Close a shift and give back, without a charge, what it still holds.

    False if its lease was over or it had been ended already. Then the rescuer releases its images.
    """
    ended = session.scalar(
        update(Shift)
        .where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())
        .values(ended_at=now(), end_reason=reason)
        .returning(Shift.id)
    )
    if ended is None:
        return False
    release(session, Image.shift_id == shift_id, shift_id=shift_id)
    return True


def rescue(session: Session, *, policy: RetryPolicy, everything: bool = False) -> int:
    """End every shift whose lease is over and release its images; how many images there were.

    With `everything`, live leases count as over too. Only a caller who knows that no worker is
    running may ask for that.

    Images that had begun become suspects, and are charged if they were alone. The others are
    given back without a charge. Ending the shift is the fence: of several rescuers one ends it,
    and whatever the old shift does later changes nothing.
    """
    # A shift that is in a transaction at this moment is skipped until the next round. Waiting for
    # its lock would hang the rescuer if the shift's process was frozen in that transaction.
    over = (
        select(Shift.id)
        .where(Shift.ended_at.is_(None), or_(literal(everything), Shift.lease_until <= now()))
        .order_by(Shift.id)
        .with_for_update(skip_locked=True)
        .cte("over")
        .prefix_with("MATERIALIZED")
    )
    lost = session.scalars(
        update(Shift)
        .where(Shift.id.in_(select(over.c.id)), Shift.ended_at.is_(None))
        .values(ended_at=now(), end_reason="lost")
        .returning(Shift.id)
    ).all()
    return sum(_release_lost(session, shift_id, policy) for shift_id in sorted(lost))


def _release_lost(session: Session, shift_id: int, policy: RetryPolicy) -> int:
    charge = case((Image.suspect, 1), else_=0)
    dead = Image.failures + charge >= policy.max_losses
    held = and_(in_state(ImageState.LEASED), Image.shift_id == shift_id)
    rows = session.execute(
        update(Image)
        .where(held, Image.begun_at.is_not(None))
        .values(
            state=case((dead, ImageState.DEAD), else_=ready_unless_cancelled()),
            shift_id=None,
            begun_at=None,
            suspect=True,
            failures=Image.failures + charge,
            error_code=LOST.code,
            error_message=LOST.message,
        )
        .returning(*RELEASED)
    ).all()
    for solo in (False, True):
        # Only failures alone are counted, and a suspect is always alone.
        charged = [row for row in rows if (row.failures > 0) == solo]
        failure = replace(LOST, solo=solo)
        record_release(session, charged, shift_id=shift_id, event="lost", failure=failure)
    return len(rows) + release(session, held, shift_id=shift_id)


def live_workers(session: Session) -> dict[str, int]:
    """How many worker processes hold a live shift, by route."""
    rows = session.execute(
        select(Worker.route, func.count(Worker.id.distinct()))
        .join(Shift, Shift.worker_id == Worker.id)
        .where(Shift.ended_at.is_(None), Shift.lease_until > now())
        .group_by(Worker.route)
    )
    return {row[0]: row[1] for row in rows}
