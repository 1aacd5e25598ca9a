"""The tables of jobs: their rows and counts, what people say about them, and the removed ones."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.states import JobState
from imagemill.db.tables.base import OWNER_CHARACTERS, Base, Hash, Id, one_of, partial
from imagemill.db.tables.seed_column import Seed

LABEL_KEY_CHARACTERS = 63
LABEL_VALUE_CHARACTERS = 200
LIVE_JOB = "state IN ('loading', 'open', 'paused', 'finished')"


class Model(Base):
    """A model that a job has named. The weights digest identifies it."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    weights_digest: Mapped[str] = mapped_column(Hash, unique=True)
    name: Mapped[str]
    source: Mapped[str]
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class Group(Base):
    """Images that may share a forward pass. Groups belong to no job, so jobs share batches."""

    __tablename__ = "groups"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(Hash, unique=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    document: Mapped[dict[str, Any]]


class Job(Base):
    """A submitted manifest with its defaults and seed. Only its state and turn change later."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("state", JobState), name="state"),
        CheckConstraint("state != 'finished' OR finished_at IS NOT NULL", name="finished"),
        partial("uq_jobs_identity_live", "identity", where=text(LIVE_JOB), unique=True),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    state: Mapped[str] = mapped_column(String(16), default=JobState.LOADING)
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    weight: Mapped[int] = mapped_column(default=1, server_default="1")
    """Its share of the workers beside other jobs of its owner and priority."""
    owner: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Who submitted it; empty for jobs from before `0012`."""
    max_workers: Mapped[int | None]
    """The most worker processes that may render it at once; it has as many `job_seats`."""
    route: Mapped[str] = mapped_column(String(64), default="default", server_default="default")
    seed: Mapped[int] = mapped_column(Seed, default=0)
    identity: Mapped[str] = mapped_column(Hash)
    """SHA-256 of manifest, defaults, seed and options. Submitting the same again finds this job."""
    manifest: Mapped[str]
    manifest_sha256: Mapped[str] = mapped_column(Hash)
    defaults: Mapped[dict[str, Any]]
    rows_loaded: Mapped[int] = mapped_column(BigInteger, default=0)
    """The manifest rows inserted so far. After a crash the producer goes on from here."""
    bad_rows: Mapped[int] = mapped_column(BigInteger, default=0)
    needs: Mapped[str] = mapped_column(default="", server_default="")
    """Labels that a worker must have to render it, as JSON; empty if there are none."""
    deadline_at: Mapped[datetime | None]
    """When the dispatcher cancels what is not rendered."""
    message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    opened_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


_BAD = text("problem IS NOT NULL")


class Row(Base):
    """One manifest line, kept as it is. A bad row (only with --skip-bad-rows) has a `problem`."""

    __tablename__ = "rows"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        UniqueConstraint("job_id", "key_base", "key_occurrence"),
        partial("ix_rows_bad", "job_id", "number", where=_BAD),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int] = mapped_column(BigInteger)
    line: Mapped[int] = mapped_column(BigInteger)
    key_base: Mapped[str | None]
    """`id:` and the row's `id`, or `prompt:` and its prompt's hash. NULL for a bad row."""
    key_occurrence: Mapped[int] = mapped_column(default=0)
    """The number of earlier rows with the same `key_base`."""
    verbatim: Mapped[str]
    """The line, without the prompt if there is a `prompt_at`."""
    prompt_at: Mapped[int | None]
    """Where the prompt, which the row's images have, stood in the line; NULL if it still does."""
    extras: Mapped[dict[str, Any]]
    template: Mapped[str | None]
    """The prompt before expansion, if the row was expanded."""
    problem: Mapped[str | None]


class Tally(Base):
    """Changes in the number of images by job, group and state. Every transition appends some.

    The sum over a job's rows is exact in any snapshot. A single counter would be a row that all
    workers wait for; appended rows need no lock. The dispatcher folds them, so the table stays
    small. Claims use the sums of ready images to choose a group.
    """

    __tablename__ = "tallies"
    __table_args__ = (Index("ix_tallies_sum", *("state", "job_id", "group_id")),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"))
    state: Mapped[str] = mapped_column(String(16))
    delta: Mapped[int] = mapped_column(BigInteger)


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
