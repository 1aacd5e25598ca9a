"""What a backup says of the database that it holds, and whether a database may be restored into."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, inspect, select, text
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.tables import ApiKey, ApiRequest, Base, Image, Job, Model, Object

_PAGE = 5_000
_BESIDE_OURS = ("alembic_version", "schema_compatibility")
_CONTENTS = (Model, Job, Image, Object, ApiKey, ApiRequest)
"""Where each of these is empty, nobody has submitted anything or been let in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """How much is in a database, at which moment by its own clock, in which schema."""

    at: datetime
    revision: str
    jobs: int
    images: int
    objects: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedFile:
    """A stored file as the database knows it: its key, SHA-256 (hex) and size in bytes."""

    object_key: str
    sha256: str
    size_bytes: int


def contents(session: Session) -> Contents:
    """What is in a database that has the schema."""
    jobs, images, objects = (
        session.scalar(select(func.count()).select_from(table)) or 0
        for table in (Job, Image, Object)
    )
    return Contents(
        at=session.scalars(select(now())).one(),
        revision=session.scalars(text("SELECT version_num FROM alembic_version")).one(),
        jobs=jobs,
        images=images,
        objects=objects,
    )


def recorded_files(session: Session) -> Iterator[RecordedFile]:
    """Every object's file, in the order of their ids."""
    query = select(Object.object_key, Object.sha256, Object.size_bytes).order_by(Object.id)
    for key, sha256, size in session.execute(query.execution_options(yield_per=_PAGE)):
        yield RecordedFile(object_key=key, sha256=sha256, size_bytes=size)


def is_unused(session: Session) -> bool:
    """Whether there is no table of ours, or nothing was submitted yet."""
    there = set(inspect(session.connection()).get_table_names())
    return not any(
        table.__tablename__ in there and session.scalar(select(table.id).limit(1)) is not None
        for table in _CONTENTS
    )


def drop_tables(session: Session) -> None:
    """Remove our tables from a PostgreSQL database that is unused, with the views on them."""
    ours = (*_BESIDE_OURS, *sorted(Base.metadata.tables))
    for name in sorted(set(ours) & set(inspect(session.connection()).get_table_names())):
        session.execute(text(f'DROP TABLE IF EXISTS "{name}" CASCADE'))
