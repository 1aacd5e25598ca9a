"""What removed jobs leave: ids that are not given again, and files that are yet to be deleted."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import among, insert_new
from imagemill.db.queries.images import in_state
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Image, Job, Object, RemovedJob, RemovedObject

_ID = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeavingFile:
    """A file whose object was removed. If it is `wanted`, an image may get it again: it stays."""

    object_key: str
    size_bytes: int
    wanted: bool


def next_job_id(session: Session) -> int | None:
    """The id that the next job must have; None if the database may choose it.

    SQLite gives the id of a removed job again if it was the last one; Postgres never does.
    """
    return _next_id(session, func.max(RemovedJob.job_id), func.max(Job.id))


def next_image_id(session: Session) -> int | None:
    """The id that the next image must have; None if the database may choose it."""
    return _next_id(session, func.max(RemovedJob.last_image_id), func.max(Image.id))


def first_job_id(session: Session) -> int | None:
    """The id of the first job that there ever was, removed or not, without rejected ones."""
    first = session.scalar(select(func.min(Job.id)).where(Job.state != JobState.REJECTED))
    removed = session.scalar(select(func.min(RemovedJob.job_id)))
    return min((each for each in (first, removed) if each is not None), default=None)


def list_files(session: Session, files: Collection[tuple[str, str, int]]) -> None:
    """List files to be deleted: object key, request key, and bytes of each."""
    rows = [
        {"object_key": key, "request_key": request, "size_bytes": size}
        for key, request, size in files
    ]
    if rows:
        session.execute(insert_new(session, RemovedObject, rows))


def keep_removed_files(session: Session, request_keys: Collection[str]) -> None:
    """Let no file of these requests be deleted before the end of this transaction.

    Call it before images are inserted that may want such a file. It waits for whoever is deleting
    one. Afterwards a worker stores it again, or `take_removed_files` sees the new image.
    """
    if session.scalar(select(func.min(RemovedObject.object_key))) is None:
        return  # as nearly always, and known sooner than thousands of keys are sent
    query = select(RemovedObject.object_key).where(
        among(session, RemovedObject.request_key, request_keys)
    )
    query = query.order_by(RemovedObject.object_key).with_for_update(read=True, key_share=True)
    session.execute(query).all()


def claim_removed_files(session: Session, object_keys: Collection[str]) -> None:
    """Let these files not be deleted: this transaction stores and records them again.

    It waits for whoever is deleting one.
    """
    session.execute(
        delete(RemovedObject).where(among(session, RemovedObject.object_key, object_keys))
    )


def take_removed_files(
    session: Session, limit: int, *, spare_waiting: bool = True
) -> list[LeavingFile]:
    """Some files to delete within this transaction, by key. Their rows are gone with its commit.

    The rows are locked, so no image that wants one of these requests can be inserted meanwhile.
    Files that another process has taken are left to it. With `spare_waiting` a file stays that an
    image waits for; without, such images are locked too, so that no worker takes one meanwhile.
    """
    taken = session.scalars(
        select(RemovedObject)
        .order_by(RemovedObject.object_key)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    keys = {file.request_key for file in taken}
    if not taken:
        return []
    # A dead image may be tried again.
    waiting = select(Image.request_key).where(
        among(session, Image.request_key, keys),
        Image.shift_id.is_(None),
        Image.object_id.is_(None),
        Image.state != ImageState.CANCELLED,
    )
    if not spare_waiting:
        session.execute(waiting.order_by(Image.id).with_for_update()).all()
    # A worker may have stored the same file again and be about to record it. Then it holds an
    # image of that request, or has recorded it by now.
    leased = select(Image.request_key).where(
        in_state(ImageState.LEASED), among(session, Image.request_key, keys)
    )
    names = [file.object_key for file in taken]
    recorded = select(Object.request_key).where(Object.object_key.in_(names))
    asked = (waiting, leased, recorded) if spare_waiting else (leased, recorded)
    wanted = {key for query in asked for key in session.scalars(query)}
    session.execute(delete(RemovedObject).where(RemovedObject.object_key.in_(names)))
    return [
        LeavingFile(
            object_key=file.object_key,
            size_bytes=file.size_bytes,
            wanted=file.request_key in wanted,
        )
        for file in taken
    ]


def removal_of(session: Session, reference: str) -> RemovedJob | None:
    """The newest removed job with this id or name."""
    which = RemovedJob.name == reference
    if _ID.fullmatch(reference):
        which = or_(which, RemovedJob.job_id == int(reference))
    return session.scalars(
        select(RemovedJob).where(which).order_by(RemovedJob.job_id.desc()).limit(1)
    ).first()


def _next_id(session: Session, removed: Any, present: Any) -> int | None:
    if session.get_bind().dialect.name != "sqlite":
        return None
    last = session.scalar(select(removed))
    if last is None or (session.scalar(select(present)) or 0) >= last:
        return None
    return int(last) + 1
