"""Objects as the database knows them, to be held against what is in the store."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Image, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedObject:
    """An object's row: what the store should hold. `size_bytes` is the file's length."""

    id: int
    object_key: str
    sha256: str
    size_bytes: int


def objects_of_job(
    session: Session, job_id: int, *, limit: int, after: int = 0
) -> list[RecordedObject]:
    """The objects of a job's done images, by id, from the one after `after`."""
    mine = select(Image.object_id).where(Image.job_id == job_id, Image.object_id.is_not(None))
    rows = session.scalars(
        select(Object)
        .where(Object.id.in_(mine), Object.id > after)
        .order_by(Object.id)
        .limit(limit)
    )
    return [
        RecordedObject(
            id=row.id, object_key=row.object_key, sha256=row.sha256, size_bytes=row.size_bytes
        )
        for row in rows
    ]


def known_keys(session: Session, object_keys: Collection[str]) -> set[str]:
    """Those of these keys that have a row."""
    return set(
        session.scalars(select(Object.object_key).where(Object.object_key.in_(list(object_keys))))
    )
