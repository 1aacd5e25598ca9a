"""Jobs: creating, opening, stopping, retrying, finishing and finding them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, and_, delete, func, select, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.errors import UnknownJob
from imagemill.db.labels import labels_as_text
from imagemill.db.queries.bulk import insert_new
from imagemill.db.queries.images import in_state, record_events
from imagemill.db.queries.jobs.deadline import deadline_of
from imagemill.db.queries.jobs.removed_jobs import next_job_id, removal_of
from imagemill.db.queries.jobs.seats import set_max_workers
from imagemill.db.queries.notifications import FINISHED, NOBODY, Audience, announce
from imagemill.db.queries.tallies import Counts, move_images
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Image, Job, Object, Row, Tally

MATCHED = (JobState.LOADING, JobState.OPEN, JobState.PAUSED, JobState.FINISHED)
"""Jobs that an equal submission finds again. The unique index on identities has the same states."""

_ID = re.compile(r"[0-9]{1,18}")

_IMAGES_A_STATEMENT = 5_000
"""How many images one statement cancels or retries. A job may have millions."""

CANCELLED_AT_ONCE = 20_000
"""How many images one transaction cancels. It takes seconds, so nobody waits for long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What a submission says about a job. `identity` is equal for equal submissions."""

    name: str
    identity: str
    manifest: str
    manifest_sha256: str
    defaults: Mapping[str, Any]
    seed: int = 0
    priority: int = 0
    owner: str = ""
    weight: int = 1
    max_workers: int | None = None
    needs: Mapping[str, str] = field(default_factory=dict)
    deadline: timedelta | datetime | None = None
    """A time, or how long from now on by the database's clock."""
    route: str = "default"


def find_or_create(session: Session, new: NewJob) -> tuple[Job, bool]:
    """The live job of this identity, and whether this call created it (in `loading`)."""
    live = select(Job).where(Job.identity == new.identity, Job.state.in_(MATCHED))
    values = {**asdict(new), "defaults": dict(new.defaults), "state": JobState.LOADING}
    values["needs"] = labels_as_text(new.needs)
    values["deadline_at"] = deadline_of(values.pop("deadline"))
    if (job_id := next_job_id(session)) is not None:
        values["id"] = job_id
    while True:
        job = session.scalars(live).first()
        if job is not None:
            return job, False
        # If two submissions come at the same moment, one inserts the job and the other finds it,
        # except where that job was refused at once: then there is room for the other's.
        created = session.execute(insert_new(session, Job, values).returning(Job.id)).first()
        if created is not None:
            set_max_workers(session, created.id, new.max_workers)
            return session.get_one(Job, created.id), True


def open_job(session: Session, job_id: int) -> bool:
    """Make a loaded job's images claimable; False if it was not loading."""
    return _move_job(
        session, job_id, sources=(JobState.LOADING,), target=JobState.OPEN, opened_at=now()
    )


def reject(session: Session, job_id: int, *, message: str) -> bool:
    """Mark a loading job rejected and drop what was loaded of it.

    Its record stays, so that another producer of the same job finds out, and no later job gets its
    id. `find_job` and `list_jobs` show it only where it is asked for.
    """
    if not _move_job(
        session, job_id, sources=(JobState.LOADING,), target=JobState.REJECTED, message=message
    ):
        return False
    for table in (Image, Row, Tally):
        session.execute(delete(table).where(table.job_id == job_id))
    return True


def pause(session: Session, job_id: int) -> bool:
    """Stop claiming a job's images; workers give back what they hold within a heartbeat."""
    return _move_job(session, job_id, sources=(JobState.OPEN,), target=JobState.PAUSED)


def resume(session: Session, job_id: int) -> bool:
    """Let a paused job's images be claimed again."""
    return _move_job(session, job_id, sources=(JobState.PAUSED,), target=JobState.OPEN)


def cancel(session: Session, job_id: int, *, message: str | None = None) -> bool:
    """Cancel a job, with the reason if there is one; False if it was over already.

    Nothing of it is claimed any more, and leased images become cancelled when their shift lets go
    of them. Of the ready images, this transaction cancels as many as it can without making others
    wait. `cancel_stragglers` cancels the rest, call by call.
    """
    sources = (JobState.LOADING, JobState.OPEN, JobState.PAUSED)
    values = {"finished_at": now()} | ({"message": message} if message else {})
    if not _move_job(session, job_id, sources=sources, target=JobState.CANCELLED, **values):
        return False
    cancel_stragglers(session, job_id)
    return True


def cancel_stragglers(session: Session, job_id: int | None = None) -> int:
    """Cancel ready images of cancelled jobs (of one, or of all), `CANCELLED_AT_ONCE` at most.

    Returns how many. That is 0 if there are no more, or if somebody else is moving them.
    """
    jobs = (
        select(Tally.job_id)
        .join(Job, Job.id == Tally.job_id)
        .where(Tally.state == ImageState.READY, Job.state == JobState.CANCELLED)
        .group_by(Tally.job_id)
        .having(func.sum(Tally.delta) > 0)
        .order_by(Tally.job_id)
    )
    if job_id is not None:
        jobs = jobs.where(Job.id == job_id)
    cancelled = 0
    for job in session.scalars(jobs).all():
        if cancelled >= CANCELLED_AT_ONCE:
            break
        cancelled += _move_images(
            session,
            and_(Image.job_id == job, in_state(ImageState.READY)),
            source=ImageState.READY,
            target=ImageState.CANCELLED,
            event="cancelled",
            values={"not_before": None},
            at_most=CANCELLED_AT_ONCE - cancelled,
        )
    return cancelled


def retry(session: Session, job_id: int, *, codes: Collection[str] = ()) -> int:
    """Make a job's dead images ready again, as a new generation; return how many.

    With `codes`, only images that died of one of these codes. A finished job is open again. In a
    cancelled job nothing is tried again.
    """
    # The job is locked, so that `finish_jobs` can't finish it by counts from before.
    state = session.scalar(
        select(Job.state).where(Job.id == job_id).with_for_update(key_share=True)
    )
    if state not in (JobState.OPEN, JobState.PAUSED, JobState.FINISHED):
        return 0
    which = and_(Image.job_id == job_id, in_state(ImageState.DEAD))
    if codes:
        which = and_(which, Image.error_code.in_(list(codes)))
    moved = _move_images(
        session,
        which,
        source=ImageState.DEAD,
        target=ImageState.READY,
        event="retried",
        values={
            "generation": Image.generation + 1,
            "suspect": True,
            "failures": 0,
            "not_before": None,
            "error_code": None,
            "error_message": None,
        },
    )
    if moved:
        _move_job(
            session, job_id, sources=(JobState.FINISHED,), target=JobState.OPEN, finished_at=None
        )
    return moved


def requeue(session: Session, object_ids: Collection[int]) -> int:
    """Render the images of these objects again, as a new generation; return how many.

    It is for objects that are missing or damaged in the store. Their rows are deleted, so that the
    new file can take their place. Images of every job that shared them are ready again, and
    finished jobs are open again.
    """
    # The objects are locked, so that nobody gives an image one of them meanwhile. The jobs are
    # locked, so that `finish_jobs` can't finish one by counts from before.
    gone = select(Object.id).where(Object.id.in_(list(object_ids))).order_by(Object.request_key)
    session.execute(gone.with_for_update())
    which = and_(Image.object_id.in_(list(object_ids)), in_state(ImageState.DONE))
    job_ids = session.scalars(select(Image.job_id).where(which).distinct()).all()
    jobs = select(Job.id, Job.state).where(Job.id.in_(job_ids)).order_by(Job.id)
    locked = session.execute(jobs.with_for_update(key_share=True)).all()
    loading = [job_id for job_id, state in locked if state == JobState.LOADING]
    move = partial(_move_images, session, source=ImageState.DONE, target=ImageState.READY)
    values = {"object_id": None, "outcome": None, "suspect": False, "failures": 0}
    moved = move(
        and_(which, Image.job_id.not_in(loading)),
        event="requeued",
        values=values | {"generation": Image.generation + 1},
    )
    # A loading job may still be rejected and deleted with all its images, so it has no history.
    moved += move(and_(which, Image.job_id.in_(loading)), event=None, values=values)
    session.execute(delete(Object).where(Object.id.in_(list(object_ids))))
    for job_id, _ in locked:
        _move_job(
            session, job_id, sources=(JobState.FINISHED,), target=JobState.OPEN, finished_at=None
        )
    return moved


def over() -> ColumnElement[bool]:
    """The condition that a job is open and no image of it is ready or leased.

    Such a job only waits for `finish_jobs`; people are told that it is finished.
    """
    return and_(Job.state == JobState.OPEN, pending_images() == 0)


def pending_images() -> ScalarSelect[int]:
    """How many images of a job are ready or leased, as a part of a statement on `Job`."""
    return (
        select(func.coalesce(func.sum(Tally.delta), 0))
        .where(Tally.job_id == Job.id, Tally.state.in_((ImageState.READY, ImageState.LEASED)))
        .scalar_subquery()
    )


def shown_state(job: Job, counts: Counts) -> JobState:
    """The state that people are told.

    A job with nothing left to do is finished, even if no dispatcher has recorded that yet.
    """
    if job.state == JobState.OPEN and counts.pending == 0:
        return JobState.FINISHED
    return JobState(job.state)


def finish_jobs(session: Session, *, audience: Audience = NOBODY, job_id: int | None = None) -> int:
    """Finish every open job without ready or leased images (or one job); how many there were.

    The same transaction puts the news for `audience` into the outbox. A finished job loses its
    deadline, so that a job which `retry` or `verify` opens again is not cancelled at once.
    """
    idle = select(Job.id).where(over()).order_by(Job.id)
    if job_id is not None:
        idle = idle.where(Job.id == job_id)
    # Lock first, then count again: a `retry` may have committed since the first count.
    locked = session.scalars(idle.with_for_update(key_share=True, skip_locked=True)).all()
    if not locked:
        return 0
    finished = session.scalars(
        update(Job)
        .where(Job.id.in_(locked), over())
        .values(state=JobState.FINISHED, finished_at=now(), deadline_at=None)
        .returning(Job.id)
    ).all()
    announce(session, FINISHED, finished, audience)
    return len(finished)


def find_job(session: Session, reference: str) -> Job:
    """The job with this id, else the newest with this name; `latest` is the newest of all.

    A rejected job is found by its id alone. Raises `UnknownJob` if there is none; the message says
    if it was removed.
    """
    newest = select(Job).where(Job.state != JobState.REJECTED).order_by(Job.id.desc()).limit(1)
    if reference == "latest":
        job = session.scalars(newest).first()
    else:
        job = session.get(Job, int(reference)) if _ID.fullmatch(reference) else None
        job = job or session.scalars(newest.where(Job.name == reference)).first()
    if job is None and (removal := removal_of(session, reference)) is not None:
        raise UnknownJob(
            f"job {removal.job_id} ({removal.name}) was removed on {removal.begun_at:%Y-%m-%d}"
        )
    if job is None:
        raise UnknownJob(f"no job {reference!r}; `imagemill jobs` lists them")
    return job


def _move_job(
    session: Session,
    job_id: int,
    *,
    sources: Collection[JobState],
    target: JobState,
    **values: Any,
) -> bool:
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(list(sources)))
        .values(state=target, **values)
        .returning(Job.id)
    )
    return moved.first() is not None


def _move_images(
    session: Session,
    which: ColumnElement[bool],
    *,
    source: ImageState,
    target: ImageState,
    event: str | None,
    values: Mapping[str, Any],
    at_most: int | None = None,
) -> int:
    """Move all images that `which` selects (or `at_most`), a few thousand at a time; how many.

    All of them are in the state `source`. Images that somebody else is moving at this moment are
    skipped. Each statement begins behind the last id of the one before, so none reads twice.
    """
    moved = last = 0
    while at_most is None or moved < at_most:
        left = _IMAGES_A_STATEMENT if at_most is None else at_most - moved
        chosen = (
            select(Image.id)
            .where(which, Image.id > last)
            .order_by(Image.id)
            .limit(min(_IMAGES_A_STATEMENT, left))
            .with_for_update(skip_locked=True)
            .cte("chosen")
            .prefix_with("MATERIALIZED")
        )
        rows = session.execute(
            update(Image)
            .where(Image.id.in_(select(chosen.c.id)))
            .values(state=target, **values)
            .returning(Image.id, Image.job_id, Image.group_id, Image.generation)
        ).all()
        if not rows:
            break
        moved += len(rows)
        last = max(row.id for row in rows)
        places = [(row.job_id, row.group_id) for row in rows]
        move_images(session, places, source=source, target=target)
        if event is not None:
            events = [(row.id, row.generation) for row in rows]
            record_events(session, events, shift_id=None, event=event)
    return moved
