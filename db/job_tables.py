"""The tables of what people say about jobs, of their workers, and of jobs that were removed."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.tables import Base, Hash, Id

LABEL_KEY_CHARACTERS = 63
LABEL_VALUE_CHARACTERS = 200
OWNER_CHARACTERS = 64


class JobLabel(Base):
    """A label of a job: a key with a value, which is empty where only the key was given."""

    __tablename__ = "job_labels"
    __table_args__ = (Index("ix_job_labels_key_value", *("key", "value", "job_id")),)

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(LABEL_KEY_CHARACTERS), primary_key=True)
    value: Mapped[str] = mapped_column(String(LABEL_VALUE_CHARACTERS))


class JobNote(Base):
    """What people wrote about a job: one text, replaced by the next."""

    __tablename__ = "job_notes"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    text: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=now())


class Owner(Base):
    """A weight that somebody gave to an owner of jobs; an owner without a row has 1."""

    __tablename__ = "owners"

    name: Mapped[str] = mapped_column(String(OWNER_CHARACTERS), primary_key=True)
    weight: Mapped[int]


class JobSeat(Base):
    """One of the places of a job with `max_workers`: a shift that renders it holds one of them."""

    __tablename__ = "job_seats"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 1 to the job's `max_workers`."""
    shift_id: Mapped[int | None] = mapped_column(ForeignKey("shifts.id"))
    """The shift that sat down last; the seat is free when it holds no image of the job."""


class RemovedJob(Base):
    """A job that somebody removed: what it was, and what went with it. Its rows are gone."""

    __tablename__ = "removed_jobs"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    name: Mapped[str] = mapped_column(String(200))
    document: Mapped[dict[str, Any]]
    """Its state, manifest, seed, defaults, labels and note when it was removed."""
    images: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    objects: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Of the objects that no other job needed."""
    last_image_id: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The largest id of an image then. No later image gets an id up to it."""
    begun_at: Mapped[datetime] = mapped_column(server_default=now())
    finished_at: Mapped[datetime | None]


class RemovedObject(Base):
    """A file whose object was removed, and which may still be in the store."""

    __tablename__ = "removed_objects"

    object_key: Mapped[str] = mapped_column(primary_key=True)
    request_key: Mapped[str] = mapped_column(Hash, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=now())
