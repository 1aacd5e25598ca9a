"""Objects as the database knows them, to be held against what is in the store."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from imagemill.db.tables import Image, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedObject:
    """An object's row: what the store should hold. `size_bytes` is the file's length.

    `image_id` is the first image of the job that asked which has it.
    """

    id: int
    image_id: int
    object_key: str
    sha256: str
    size_bytes: int


def objects_of_job(
    session: Session, job_id: int, *, limit: int, after: int = 0
) -> list[RecordedObject]:
    """The objects of a job's done images, in the order of these, from the image after `after`.

    Each object once: with the first of the job's images that share it. So a page costs the same
    however far in, and a job of any size is read once.
    """
    twin = aliased(Image)
    shared = exists().where(
        twin.object_id == Image.object_id, twin.job_id == Image.job_id, twin.id < Image.id
    )
    rows = session.execute(
        select(Image.id, Object)
        .join(Object, Object.id == Image.object_id)
        .where(Image.job_id == job_id, Image.id > after, ~shared)
        .order_by(Image.id)
        .limit(limit)
    )
    return [
        RecordedObject(
            id=stored.id,
            image_id=image_id,
            object_key=stored.object_key,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
        )
        for image_id, stored in rows
    ]


def known_keys(session: Session, object_keys: Collection[str]) -> set[str]:
    """Those of these keys that have a row."""
    return set(
        session.scalars(select(Object.object_key).where(Object.object_key.in_(list(object_keys))))
    )
