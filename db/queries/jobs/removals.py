"""Removing jobs: what would go, and going step by step, each step one transaction.

First a job is marked (`begin`), so that nothing happens to it any more. Then its images go, the
last first, and with them their history and each object that no other image uses (`remove_some`).
A file stays listed in `removed_objects` until it is deleted. A process that dies in between leaves
a cancelled job with fewer images; `unfinished` finds it, and the next removal goes on with it.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.documents import JSON
from imagemill.db.errors import UsageError
from imagemill.db.queries.bulk import among, insert_new
from imagemill.db.queries.jobs.lifecycle import over
from imagemill.db.queries.labels import find_labels, find_notes, has_labels
from imagemill.db.queries.tallies import add_images, count_images
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import (
    Image,
    Job,
    JobLabel,
    JobNote,
    JobSeat,
    JobWatch,
    JobWebhook,
    Notification,
    Object,
    RemovedJob,
    RemovedObject,
    Row,
    Tally,
)

ENDED = (JobState.FINISHED, JobState.CANCELLED, JobState.REJECTED)
"""Jobs that can be removed; a live one must be cancelled first."""

IMAGES_A_STEP = 2_000
ROWS_A_STEP = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What goes with a job, and what stays. Sizes are in bytes.

    `objects` are the files that no other job's image uses, `shared_objects` those that stay.
    `neighbours` are pictures of other jobs that were rendered in one recorded batch with pictures
    of this job: without those, they can't be rendered again bit for bit.
    """

    id: int = field(metadata={JSON: "job_id"})
    name: str = field(metadata={JSON: "job_name"})
    state: str
    images: int
    objects: int
    size_bytes: int
    shared_objects: int
    neighbours: int


def plan(session: Session, jobs: Sequence[Job], *, only_over: bool = False) -> list[Removal]:
    """What goes with each of these jobs if they are removed in this order.

    Raises `UsageError` if one of them can't be removed. With `only_over`, those of which workers
    still hold images are left out instead.
    """
    counts = count_images(session, [job.id for job in jobs])
    if only_over:
        jobs = [job for job in jobs if not counts[job.id].pending]
    removals = []
    for place, job in enumerate(jobs):
        state = _checked(job, counts[job.id].ready, counts[job.id].leased)
        gone = [each.id for each in jobs[: place + 1]]
        mine = _objects(job.id)
        used = exists().where(Image.object_id == mine.c.object_id, Image.job_id.not_in(gone))
        free, stay = select(func.count(), func.coalesce(func.sum(Object.size_bytes), 0)), used
        free = free.join_from(mine, Object, Object.id == mine.c.object_id).where(~used)
        objects, size = session.execute(free).one()
        shared = session.scalar(select(func.count()).select_from(mine).where(stay))
        removals.append(
            Removal(
                id=job.id,
                name=job.name,
                state=state,
                images=counts[job.id].requested,
                objects=objects,
                size_bytes=int(size),
                shared_objects=shared or 0,
                neighbours=_neighbours(session, job.id, gone),
            )
        )
    return removals


def begin(session: Session, job_id: int) -> bool:
    """Mark a job as being removed; False if it is gone. Raises `UsageError` if it is live.

    From then on it is cancelled: nothing of it is tried again, and an equal submission makes a new
    job.
    """
    locked = select(Job).where(Job.id == job_id).with_for_update()
    job = session.scalars(locked.execution_options(populate_existing=True)).first()
    if job is None:
        return False
    counts = count_images(session, [job_id])[job_id]
    state = _checked(job, counts.ready, counts.leased)
    values = {
        "job_id": job_id,
        "name": job.name,
        "document": _record(session, job, state),
        "last_image_id": session.scalar(select(func.max(Image.id))) or 0,
    }
    session.execute(insert_new(session, RemovedJob, values))
    if job.state in (JobState.OPEN, JobState.FINISHED):
        job.finished_at = job.finished_at or now()
        job.state = JobState.CANCELLED
    return True


def remove_some(session: Session, job_id: int) -> bool:
    """Remove a part of a job that `begin` has marked; False when nothing of it is left."""
    locked = session.scalar(select(Job.id).where(Job.id == job_id).with_for_update())
    if locked is None:
        return False
    # The last samples of a row go first, so that no row ever has a gap between its samples.
    last = (
        select(Image.id, Image.group_id, Image.state, Image.object_id)
        .where(Image.job_id == job_id)
        .order_by(Image.id.desc())
        .limit(IMAGES_A_STEP)
        .with_for_update()
    )
    images = session.execute(last).all()
    if images:
        _remove_images(session, job_id, images)
        return True
    rows = select(Row.id).where(Row.job_id == job_id).limit(ROWS_A_STEP)
    gone = session.execute(delete(Row).where(Row.id.in_(rows)).returning(Row.id)).all()
    if len(gone) == ROWS_A_STEP:
        return True
    for table in (Tally, JobLabel, JobNote, JobSeat, JobWebhook, JobWatch, Notification):
        session.execute(delete(table).where(table.job_id == job_id))
    session.execute(delete(Job).where(Job.id == job_id))
    ended = update(RemovedJob).where(RemovedJob.job_id == job_id).values(finished_at=now())
    session.execute(ended)
    return False


def unfinished(session: Session) -> list[int]:
    """The ids of jobs whose removal was begun and not finished."""
    query = select(RemovedJob.job_id).where(RemovedJob.finished_at.is_(None))
    return list(session.scalars(query.order_by(RemovedJob.job_id)))


def ended_jobs(
    session: Session,
    *,
    older_than: timedelta,
    labels: Collection[tuple[str, str | None]] = (),
    keep: Collection[tuple[str, str | None]] = (),
) -> list[Job]:
    """The jobs that ended so long ago by the database's clock, oldest first.

    They have all of the `labels` and none of those to `keep`; a value of None is any.
    """
    ended = or_(Job.state.in_(ENDED), over())
    query = select(Job).where(ended, has_labels(labels))
    for label in keep:
        query = query.where(~has_labels([label]))
    # A rejected job ended when it was submitted, and so may an open one that nobody has finished.
    at = func.coalesce(Job.finished_at, Job.opened_at, Job.created_at)
    before = seconds_from_now(-older_than.total_seconds())
    return list(session.scalars(query.where(at < before).order_by(Job.id)))


def _checked(job: Job, ready: int, leased: int) -> str:
    """The state of a job that can be removed."""
    state = JobState(job.state)
    if state == JobState.OPEN and not ready + leased:
        return JobState.FINISHED
    if state not in ENDED:
        raise UsageError(
            f"job {job.id} ({job.name}) is {state}: `imagemill cancel {job.id}` comes first"
        )
    if ready + leased:
        raise UsageError(
            f"job {job.id} ({job.name}) is {state}, but {ready + leased:,} images of it are not "
            "over: workers and the dispatcher end them within seconds"
        )
    return state


def _record(session: Session, job: Job, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "manifest": job.manifest,
        "manifest_sha256": job.manifest_sha256,
        "seed": job.seed,
        "defaults": job.defaults,
        "labels": find_labels(session, [job.id]).get(job.id, {}),
        "note": find_notes(session, [job.id]).get(job.id),
        "created_at": job.created_at.isoformat(),
    }


def _objects(job_id: int) -> CTE:
    """The ids of a job's objects, each once."""
    stored = and_(Image.job_id == job_id, Image.object_id.is_not(None))
    return select(Image.object_id).where(stored).distinct().cte("mine")


def _neighbours(session: Session, job_id: int, gone: Collection[int]) -> int:
    """How many pictures of jobs that stay share a recorded batch with pictures of this job."""
    mine = _objects(job_id)
    batches = (
        select(Object.composition_id)
        .join(mine, mine.c.object_id == Object.id)
        .where(Object.composition_id.is_not(None))
        .distinct()
    )
    if session.scalars(batches.limit(1)).first() is None:
        return 0
    other = aliased(Object)
    stays = exists().where(Image.object_id == other.id, Image.job_id.not_in(gone))
    found = select(func.count(other.id)).where(other.composition_id.in_(batches), stays)
    return session.scalar(found) or 0


def _remove_images(session: Session, job_id: int, images: Sequence[Any]) -> None:
    ids = [image.id for image in images]
    # What is said of an image (its history, scores and tags) goes with it, by its foreign key.
    session.execute(delete(Image).where(among(session, Image.id, ids)))
    counted = Counter((job_id, image.group_id, ImageState(image.state)) for image in images)
    add_images(session, {place: -count for place, count in counted.items()})
    freed = _remove_objects(session, {image.object_id for image in images} - {None})
    session.execute(
        update(RemovedJob)
        .where(RemovedJob.job_id == job_id)
        .values(
            images=RemovedJob.images + len(ids),
            objects=RemovedJob.objects + len(freed),
            size_bytes=RemovedJob.size_bytes + sum(freed),
        )
    )


def _remove_objects(session: Session, object_ids: Collection[int]) -> list[int]:
    """Remove those of these objects that no image uses any more; the sizes of their files."""
    # They are locked before they are looked at: whoever gives one to an image has locked it too,
    # and its image is visible when this lock is granted. The order is that of all who lock several.
    locked = select(Object.id).where(among(session, Object.id, object_ids))
    locked = locked.order_by(Object.request_key).with_for_update()
    ids = session.scalars(locked).all()
    used = exists().where(Image.object_id == Object.id)
    free = session.scalars(select(Object).where(among(session, Object.id, ids), ~used)).all()
    if not free:
        return []
    rows = [
        {"object_key": o.object_key, "request_key": o.request_key, "size_bytes": o.size_bytes}
        for o in free
    ]
    session.execute(insert_new(session, RemovedObject, rows))
    session.execute(delete(Object).where(among(session, Object.id, [o.id for o in free])))
    return [o.size_bytes for o in free]
