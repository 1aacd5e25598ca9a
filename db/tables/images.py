"""The tables of images: what was asked for, what became of it, and the files."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
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
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables.base import Base, Hash, Id, one_of, partial
from imagemill.db.tables.seed_column import Seed
from imagemill.db.tables.transactions import TransactionId, this_transaction


class CompositionRow(Base):
    """The images of a recorded micro-batch, in the order of its slots. Further slots were empty."""

    __tablename__ = "compositions"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    digest: Mapped[str] = mapped_column(Hash, unique=True)
    """SHA-256 of `slots` and `request_keys`."""
    slots: Mapped[int]
    request_keys: Mapped[list[str]] = mapped_column(JSON)
    image_ids: Mapped[list[int]] = mapped_column(JSON)
    """An image of each request; its row holds the specification that was rendered."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class Object(Base):
    """One stored file. A request has one object at a time: the first that is recorded wins."""

    __tablename__ = "objects"
    __table_args__ = (
        CheckConstraint(one_of("outcome", Outcome), name="outcome"),
        UniqueConstraint("request_key").ddl_if("sqlite"),
        UniqueConstraint("object_key").ddl_if("sqlite"),
        # On PostgreSQL the same promises are kept by hashes, a fraction of the bytes of indexes of
        # such long texts: `ex_objects_request_key` of migration 0022, `ex_objects_object_key` of
        # 0021. To name them here would import PostgreSQL's dialect into every command.
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    request_key: Mapped[str] = mapped_column(Hash)
    """Of what it is the picture; no other object has the same."""
    object_key: Mapped[str]
    """Its name in the store, which no other object has."""
    uri: Mapped[str]
    """Where it was when it was stored; on PostgreSQL empty if `Store` had an address by then.
    Readers get that address and `object_key`."""
    sha256: Mapped[str] = mapped_column(Hash)
    pixels_sha256: Mapped[str] = mapped_column(Hash)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    format: Mapped[str] = mapped_column(String(8))
    outcome: Mapped[str] = mapped_column(String(32))
    cut: Mapped[str | None]
    """The part of the prompt that did not fit into the text encoder's window."""
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"))
    composition_id: Mapped[int | None] = mapped_column(ForeignKey("compositions.id"))
    """With `batches = "recorded"`: the micro-batch in which the image was rendered."""
    seconds: Mapped[float]
    """The image's share of the engine's time."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())


_READY = text("state = 'ready'")
_WAITING = text("shift_id IS NULL AND object_id IS NULL")
"""Images that may still get an object. The condition must differ from `_READY`: before the
statistics know a new job, Postgres takes both indexes for empty, and it could then read the whole
wrong one."""
_LEASED = text("state = 'leased'")
_DEAD = text("state = 'dead'")
_FAILED = text("error_code IS NOT NULL")
_FLAWED = text("outcome != 'ok'")
_STORED = text("object_id IS NOT NULL")


class Image(Base):
    """One requested picture: its specification, its state, and its object if it is done."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("row_id", "sample_index"),
        CheckConstraint(one_of("state", ImageState), name="state"),
        CheckConstraint("(state = 'leased') = (shift_id IS NOT NULL)", name="leased_by_shift"),
        CheckConstraint("(state = 'done') = (object_id IS NOT NULL)", name="done_has_object"),
        CheckConstraint("(state = 'done') = (outcome IS NOT NULL)", name="done_has_outcome"),
        CheckConstraint("state != 'dead' OR error_code IS NOT NULL", name="dead_says_why"),
        CheckConstraint("begun_at IS NULL OR state = 'leased'", name="begun_is_leased"),
        partial(
            "ix_images_ready", "job_id", "group_id", "suspect", "not_before", "id", where=_READY
        ),
        partial("ix_images_leased", "shift_id", where=_LEASED),
        # Hashes, not texts: a third of the bytes, and half of the time to insert an image's.
        partial("ix_images_waiting", "request_key", where=_WAITING, postgresql_using="hash"),
        partial("ix_images_dead", "job_id", "id", where=_DEAD),
        partial("ix_images_failed", "job_id", "error_code", "id", where=_FAILED),
        partial("ix_images_flawed", "job_id", "outcome", "id", where=_FLAWED),
        partial("ix_images_object", "object_id", where=_STORED),
        Index("ix_images_job", *("job_id", "id")),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    row_id: Mapped[int] = mapped_column(ForeignKey("rows.id"))
    sample_index: Mapped[int]
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"))
    request_key: Mapped[str] = mapped_column(Hash)

    model: Mapped[str]
    prompt: Mapped[str]
    negative_prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(Seed)
    width: Mapped[int]
    height: Mapped[int]
    steps: Mapped[int]
    guidance_scale: Mapped[float]
    sampler: Mapped[str] = mapped_column(String(64))
    format: Mapped[str] = mapped_column(String(8))
    options: Mapped[dict[str, Any]]
    """The specification's other fields that are not at their default."""

    state: Mapped[str] = mapped_column(String(16), default=ImageState.READY)
    generation: Mapped[int] = mapped_column(default=1, server_default="1")
    """The number of renderings asked for: `retry` and `verify --requeue` add one."""
    shift_id: Mapped[int | None] = mapped_column(ForeignKey("shifts.id"))
    begun_at: Mapped[datetime | None]
    """When its rendering began under this lease. A failure counts against it only after that."""
    suspect: Mapped[bool] = mapped_column(default=False)
    """It was in a forward pass that failed, so it must be rendered alone."""
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    """The failures in this generation while it was rendered alone."""
    not_before: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None]
    object_id: Mapped[int | None] = mapped_column(ForeignKey("objects.id"))
    outcome: Mapped[str | None] = mapped_column(String(32))
    """Copied from its object, so that an index leads from a job to its pictures that are not ok."""


class Environment(Base):
    """An environment (hardware, software and shapes), one row for each fingerprint."""

    __tablename__ = "environments"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Hash, unique=True)
    document: Mapped[dict[str, Any]]
    certificate: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The result of the test for batch independence in this environment."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())


_BECAME_DONE = text("event = 'done'")


class Attempt(Base):
    """The history of an image: what happened, when, in which shift, and why. Only appended to.

    It goes with its image when somebody removes the job, and in no other way.
    """

    __tablename__ = "attempts"
    # Without the id, which nearly always rises with it: PostgreSQL keeps equal entries as one.
    __table_args__ = (partial("ix_attempts_done", "transaction_id", where=_BECAME_DONE),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    generation: Mapped[int]
    shift_id: Mapped[int | None] = mapped_column(ForeignKey("shifts.id"))
    event: Mapped[str] = mapped_column(String(16))
    """done, failed, lost, dead, retried, requeued or cancelled."""
    solo: Mapped[bool] = mapped_column(default=False)
    code: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(server_default=now())
    transaction_id: Mapped[int | None] = mapped_column(
        TransactionId, server_default=this_transaction(), deferred=True
    )
    """Which transaction wrote the line; NULL for lines from before `0006`. Readers who come back
    for what is new go by it, because ids do not become visible in their order."""
