"""Workers and shifts: leases, their renewal, and the rescue of what a dead shift held."""

from dataclasses import dataclass

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.orm import Session

from db.clock import now, seconds_from_now
from db.queries.claims import Failure, RetryPolicy, ready_unless_cancelled, record_events
from db.queries.tallies import move_images
from db.states import ImageState, JobState
from db.tables import Image, Job, Shift, Worker

LOST = Failure(
    code="worker_lost",
    message="its worker died or hung while this image was being rendered",
    retryable=True,
    solo=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What a heartbeat brings back: whether to stop, and whose images to let go of."""

    draining: bool
    stopped_jobs: frozenset[int]
    """Jobs with images in this shift that are paused or cancelled now."""


def register_worker(
    session: Session, *, name: str, host: str, pid: int, device: str, route: str
) -> int:
    """Record a worker child that has just started; its id."""
    return session.scalars(
        insert(Worker)
        .values(name=name, host=host, pid=pid, device=device, route=route)
        .returning(Worker.id)
    ).one()


def stop_worker(session: Session, worker_id: int) -> None:
    """Record that a worker child has stopped in good order."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(stopped_at=now()))


def start_shift(session: Session, *, worker_id: int, lease_seconds: float) -> int:
    """Open a shift with a lease; its id, which is the fence of everything it changes."""
    return session.scalars(
        insert(Shift)
        .values(worker_id=worker_id, lease_until=seconds_from_now(lease_seconds))
        .returning(Shift.id)
    ).one()


def renew(session: Session, *, shift_id: int, lease_seconds: float) -> Orders | None:
    """Renew the lease; None if it was already over: the shift must stop and discard."""
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
            Image.state == ImageState.LEASED,
            Image.shift_id == shift_id,
            Job.state.in_((JobState.PAUSED, JobState.CANCELLED)),
        )
        .distinct()
    )
    return Orders(draining=bool(draining), stopped_jobs=frozenset(stopped))


def end_shift(session: Session, *, shift_id: int, reason: str) -> bool:
    """Close a shift that gave everything back; False if it had been ended already."""
    result = session.execute(
        update(Shift)
        .where(Shift.id == shift_id, Shift.ended_at.is_(None))
        .values(ended_at=now(), end_reason=reason)
        .returning(Shift.id)
    )
    return result.first() is not None


def rescue(session: Session, *, policy: RetryPolicy) -> int:
    """End every shift whose lease is over and release its images; how many images.

    Images that had begun become suspects and are charged if they were alone; the others are
    given back uncharged. Ending the shift is the fence: one rescuer wins, and whatever the old
    shift does later changes nothing.
    """
    lost = session.scalars(
        update(Shift)
        .where(Shift.ended_at.is_(None), Shift.lease_until <= now())
        .values(ended_at=now(), end_reason="lost")
        .returning(Shift.id)
    ).all()
    return sum(_release(session, shift_id, policy) for shift_id in sorted(lost))


def live_shifts(session: Session) -> int:
    """How many shifts hold a live lease."""
    return (
        session.scalar(
            select(func.count(Shift.id)).where(Shift.ended_at.is_(None), Shift.lease_until > now())
        )
        or 0
    )


def _release(session: Session, shift_id: int, policy: RetryPolicy) -> int:
    begun = Image.begun_at.is_not(None)
    charge = case((begun & Image.suspect, 1), else_=0)
    dead = Image.failures + charge >= policy.max_failures
    held = (Image.state == ImageState.LEASED) & (Image.shift_id == shift_id)
    rows = session.execute(
        update(Image)
        .where(held, begun)
        .values(
            state=case((dead, ImageState.DEAD), else_=ready_unless_cancelled()),
            shift_id=None,
            begun_at=None,
            suspect=True,
            failures=Image.failures + charge,
            error_code=LOST.code,
            error_message=LOST.message,
        )
        .returning(Image.id, Image.job_id, Image.group_id, Image.state, Image.generation)
    ).all()
    untouched = session.execute(
        update(Image)
        .where(held)
        .values(state=ready_unless_cancelled(), shift_id=None)
        .returning(Image.id, Image.job_id, Image.group_id, Image.state, Image.generation)
    ).all()
    for state in (ImageState.READY, ImageState.DEAD, ImageState.CANCELLED):
        moved = [row for row in (*rows, *untouched) if row.state == state]
        move_images(
            session,
            [(row.job_id, row.group_id) for row in moved],
            source=ImageState.LEASED,
            target=state,
        )
    for event, state in (("lost", ImageState.READY), ("dead", ImageState.DEAD)):
        images = [(row.id, row.generation) for row in rows if row.state == state]
        record_events(session, images, shift_id=shift_id, event=event, failure=LOST)
    return len(rows) + len(untouched)
