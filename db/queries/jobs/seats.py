"""Seats: a job with `max_workers` has as many, and only a shift that holds one may claim of it.

A seat is free when the shift that sat down last holds no image of the job any more. Nobody waits
for a seat: one that another transaction looks at is passed over, so seats can't cause a deadlock.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from imagemill.db.clock import now
from imagemill.db.queries.images import in_state
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Job, JobSeat, Shift


def set_max_workers(session: Session, job_id: int, most: int | None) -> None:
    """Give a job this many seats, or none and no limit.

    Shifts that hold images of the job keep their seats, or get one. Those beyond the new number
    finish what they hold, and claim no more.
    """
    seats = select(func.count()).where(JobSeat.job_id == job_id)
    before = session.scalar(seats) or 0
    if before == (most or 0):
        return
    session.execute(update(Job).where(Job.id == job_id).values(max_workers=most))
    session.execute(delete(JobSeat).where(JobSeat.job_id == job_id, JobSeat.number > (most or 0)))
    first = before + 1
    if most is None or most < first:
        return
    holders = iter(() if before else _holders(session, job_id))
    new = [
        {"job_id": job_id, "number": number, "shift_id": next(holders, None)}
        for number in range(first, most + 1)
    ]
    session.execute(insert(JobSeat), new)


def take_seat(session: Session, *, job_id: int, shift_id: int) -> bool:
    """Whether the shift sits in one of the job's seats now; until the transaction ends, surely."""
    seats = select(JobSeat.number).where(JobSeat.job_id == job_id).limit(1)
    own = seats.where(JobSeat.shift_id == shift_id)
    if session.scalars(own.with_for_update(skip_locked=True)).first() is not None:
        return True
    free = seats.where(_free()).order_by(JobSeat.number).with_for_update(skip_locked=True)
    number = session.scalars(free).first()
    if number is None:
        return False
    # Lock first, then look again: its holder may have claimed an image since the first look.
    taken = session.execute(
        update(JobSeat)
        .where(JobSeat.job_id == job_id, JobSeat.number == number, _free())
        .values(shift_id=shift_id)
        .returning(JobSeat.number)
    )
    return taken.first() is not None


def jobs_with_room(
    session: Session, job_ids: Collection[int], *, worker_id: int | None
) -> set[int]:
    """Those of these jobs in which a seat is free, or is held by a shift of this worker."""
    mine = exists().where(Shift.id == JobSeat.shift_id, Shift.worker_id == worker_id)
    room = JobSeat.job_id.in_(list(job_ids)) & or_(_free(), mine)
    return set(session.scalars(select(JobSeat.job_id).where(room).distinct()))


def has_room() -> ColumnElement[bool]:
    """The condition that a job has no limit, or a free seat."""
    free = exists().where(JobSeat.job_id == Job.id, _free())
    return or_(Job.max_workers.is_(None), free)


def _free() -> ColumnElement[bool]:
    """Nobody sits there: no live shift that holds an image of the job."""
    shift = aliased(Shift)
    live = exists().where(
        shift.id == JobSeat.shift_id, shift.ended_at.is_(None), shift.lease_until > now()
    )
    # The sum keeps Postgres from walking the index of the job's images, which may be millions; the
    # index of leased ones gives the few that a shift holds.
    held = exists().where(
        in_state(ImageState.LEASED),
        Image.shift_id == JobSeat.shift_id,
        Image.job_id + 0 == JobSeat.job_id,
    )
    return or_(JobSeat.shift_id.is_(None), ~and_(live, held))


def _holders(session: Session, job_id: int) -> list[int | None]:
    """The shifts that hold images of a job, by id."""
    held = and_(in_state(ImageState.LEASED), Image.job_id + 0 == job_id)
    query = select(Image.shift_id).where(held).distinct().order_by(Image.shift_id)
    return list(session.scalars(query))
