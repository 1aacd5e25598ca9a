"""The tables. `docs/database.md` says what each is for, `docs/architecture.md` explains the words.

CHECK constraints say which columns each state needs, so a wrong transition fails in the database
and not later in a data set. Many indexes are partial: claims look only at the few images that are
ready or leased, in a table of millions.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from imagemill.db.clock import UtcDateTime, now
from imagemill.db.seed_column import Seed
from imagemill.db.states import ImageState, JobState, Outcome
from imagemill.db.transactions import TransactionId, this_transaction

Id = BigInteger().with_variant(Integer, "sqlite")
Hash = String(64)
"""A SHA-256 in hex."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The base of all tables: names of constraints and types of columns."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's declarative API reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        str: Text,
    }


def _one_of(column: str, words: type[JobState | ImageState | Outcome]) -> str:
    return f"{column} IN ({', '.join(repr(word.value) for word in words)})"


def _partial(name: str, *columns: str, where: TextClause) -> Index:
    """An index over few rows of a large table."""
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


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
        CheckConstraint(_one_of("state", JobState), name="state"),
        CheckConstraint("state != 'finished' OR finished_at IS NOT NULL", name="finished"),
        Index(
            "uq_jobs_identity_live",
            "identity",
            unique=True,
            postgresql_where=text(LIVE_JOB),
            sqlite_where=text(LIVE_JOB),
        ),
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
    """One manifest line, kept verbatim. A bad row (only with --skip-bad-rows) has a `problem`."""

    __tablename__ = "rows"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        UniqueConstraint("job_id", "key_base", "key_occurrence"),
        _partial("ix_rows_bad", "job_id", "number", where=_BAD),
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
    extras: Mapped[dict[str, Any]]
    template: Mapped[str | None]
    """The prompt before expansion, if the row was expanded."""
    problem: Mapped[str | None]


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
    __table_args__ = (CheckConstraint(_one_of("outcome", Outcome), name="outcome"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    request_key: Mapped[str] = mapped_column(Hash, unique=True)
    object_key: Mapped[str] = mapped_column(unique=True)
    uri: Mapped[str]
    """Where it was when it was stored. Readers get `Store`'s address and `object_key`."""
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
        CheckConstraint(_one_of("state", ImageState), name="state"),
        CheckConstraint("(state = 'leased') = (shift_id IS NOT NULL)", name="leased_by_shift"),
        CheckConstraint("(state = 'done') = (object_id IS NOT NULL)", name="done_has_object"),
        CheckConstraint("(state = 'done') = (outcome IS NOT NULL)", name="done_has_outcome"),
        CheckConstraint("state != 'dead' OR error_code IS NOT NULL", name="dead_says_why"),
        CheckConstraint("begun_at IS NULL OR state = 'leased'", name="begun_is_leased"),
        _partial(
            "ix_images_ready", "job_id", "group_id", "suspect", "not_before", "id", where=_READY
        ),
        _partial("ix_images_leased", "shift_id", where=_LEASED),
        _partial("ix_images_waiting", "request_key", where=_WAITING),
        _partial("ix_images_dead", "job_id", "id", where=_DEAD),
        _partial("ix_images_failed", "job_id", "error_code", "id", where=_FAILED),
        _partial("ix_images_flawed", "job_id", "outcome", "id", where=_FLAWED),
        _partial("ix_images_object", "object_id", where=_STORED),
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


class BatchSize(Base):
    """B for a class of devices and a group; all workers share it."""

    __tablename__ = "batch_sizes"
    __table_args__ = (UniqueConstraint("device", "group_id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    device: Mapped[str]
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"))
    slots: Mapped[int]


class Worker(Base):
    """One child process of a worker, as of its last heartbeat."""

    __tablename__ = "workers"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    route: Mapped[str] = mapped_column(String(64))
    draining: Mapped[bool] = mapped_column(default=False)
    """Set by an operator. The worker reads it with each heartbeat."""
    pinned_as: Mapped[str | None]
    """The name by which an operator pinned it: its own, its worker's or its host's."""
    pinned_job_id: Mapped[int | None] = mapped_column(BigInteger)
    """It takes only images of this job, which may have been removed."""
    pinned_model: Mapped[str | None]
    """It takes only images of this model."""
    labels: Mapped[str] = mapped_column(default="", server_default="")
    """Its labels, as JSON; empty if it has none."""
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    seen_at: Mapped[datetime] = mapped_column(server_default=now())
    stopped_at: Mapped[datetime | None]


class Shift(Base):
    """The work of one Celery task, and its lease. The shift itself or the rescuer ends it."""

    __tablename__ = "shifts"
    __table_args__ = (
        Index(
            "ix_shifts_live",
            "lease_until",
            postgresql_where=text("ended_at IS NULL"),
            sqlite_where=text("ended_at IS NULL"),
        ),
        _partial("ix_shifts_lost", "id", where=text("end_reason = 'lost'")),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    worker_id: Mapped[int] = mapped_column(ForeignKey("workers.id"), index=True)
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(String(32))


_BECAME_DONE = text("event = 'done'")


class Attempt(Base):
    """The history of an image: what happened, when, in which shift, and why. Only appended to.

    It goes with its image when somebody removes the job, and in no other way.
    """

    __tablename__ = "attempts"
    __table_args__ = (_partial("ix_attempts_done", "transaction_id", "id", where=_BECAME_DONE),)

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
