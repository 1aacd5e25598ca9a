"""The tables of workers: who they are, their shifts, and what they found out about models."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.tables.base import Base, Hash, Id, partial


class BatchSize(Base):
    """B for a class of devices and a group; all workers share it."""

    __tablename__ = "batch_sizes"
    __table_args__ = (UniqueConstraint("device", "group_id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    device: Mapped[str]
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"))
    slots: Mapped[int]


class FastestPrecision(Base):
    """What `dtype = "fastest"` means for a model on a kind of processor; all workers share it."""

    __tablename__ = "fastest_precisions"
    __table_args__ = (UniqueConstraint("weights_digest", "device", "torch"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    weights_digest: Mapped[str] = mapped_column(Hash)
    device: Mapped[str]
    """The processor's name, and its instructions for bf16."""
    torch: Mapped[str]
    """The version of torch that was tried."""
    precision: Mapped[str] = mapped_column(String(8))
    """`fp32` or `bf16`."""
    bf16_speed: Mapped[float]
    """How many times as fast as in fp32 a denoiser pass was in bf16."""


class MemoryNeed(Base):
    """The memory of a card that a model, or a group rendered alone, needs; all workers share it."""

    __tablename__ = "memory_needs"
    __table_args__ = (UniqueConstraint("tuning", "key"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(Hash)
    """The weights digest of a model, for its weights alone, or the key of a group, with B = 1."""
    tuning: Mapped[str] = mapped_column(Hash)
    """How the workers run models that found it out: `Worker.tuning`."""
    device: Mapped[str]
    """The class of devices on which it was found out last."""
    needed_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Measured: it takes at least so much. 0 if nobody measured it."""
    too_small_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The largest memory in which it did not fit. 0 if there was none."""


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
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The memory of its card that it had to itself when it started; None on a CPU."""
    tuning: Mapped[str] = mapped_column(Hash, default="", server_default="")
    """SHA-256 of the settings and libraries on which a model's need of memory depends."""
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    seen_at: Mapped[datetime] = mapped_column(server_default=now())
    stopped_at: Mapped[datetime | None]


class Shift(Base):
    """The work of one Celery task, and its lease. The shift itself or the rescuer ends it."""

    __tablename__ = "shifts"
    __table_args__ = (
        partial("ix_shifts_live", "lease_until", where=text("ended_at IS NULL")),
        partial("ix_shifts_lost", "id", where=text("end_reason = 'lost'")),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    worker_id: Mapped[int] = mapped_column(ForeignKey("workers.id"), index=True)
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(String(32))
