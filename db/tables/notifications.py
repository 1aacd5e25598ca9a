"""The tables of notifications: the webhooks of jobs, the progress of jobs, and the outbox."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from imagemill.db.clock import now
from imagemill.db.tables.base import Base, Id, partial

_WAITING = text("state = 'waiting'")


class JobWebhook(Base):
    """An address that gets one job's events, beside those of the dispatcher's settings."""

    __tablename__ = "job_webhooks"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    url: Mapped[str] = mapped_column(primary_key=True)


class JobWatch(Base):
    """An open job's progress when the dispatcher last looked, and which events were sent of it."""

    __tablename__ = "job_watches"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    done: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime] = mapped_column(server_default=now())
    """When `done` was last seen to have changed, or the job to be open."""
    failing: Mapped[bool] = mapped_column(default=False)
    """Whether `job.failing` was told and is still so; `stalled` likewise."""
    stalled: Mapped[bool] = mapped_column(default=False)


class Notification(Base):
    """One event on its way to one receiver: the outbox. Written with the event itself.

    `claim` names the dispatcher that is sending it, until `due_at`; then anyone may try again.
    """

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'sent', 'failed')", name="state"),
        CheckConstraint("kind IN ('webhook', 'setting', 'command')", name="kind"),
        CheckConstraint("state != 'sent' OR sent_at IS NOT NULL", name="sent"),
        partial("ix_notifications_waiting", "due_at", where=_WAITING),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    message_id: Mapped[str] = mapped_column(String(64))
    """The header `webhook-id`: the same for every try, and for every receiver of an event."""
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    event: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str]
    """The address of a job's webhook; of a setting's, only a hash, because it may be a secret."""
    shown: Mapped[str]
    """The receiver as people may see it: an address without its path, or `command`."""
    body: Mapped[str]
    """The JSON that is sent, to the byte: a signature is over it."""
    state: Mapped[str] = mapped_column(String(16), default="waiting", server_default="waiting")
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    claim: Mapped[str | None] = mapped_column(String(32))
    due_at: Mapped[datetime] = mapped_column(server_default=now())
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    sent_at: Mapped[datetime | None]
    note: Mapped[str | None]
    """What came of the last try, in one line."""
