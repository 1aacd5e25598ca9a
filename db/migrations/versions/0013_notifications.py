"""Notifications: webhooks of jobs, what was told of a job, and the outbox."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime, now

revision = "0013"
down_revision = "0012"


def _job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{table}_job_id_jobs"))


def upgrade() -> None:
    """Add three tables. A dispatcher of before finishes jobs without telling anybody."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "job_webhooks",
        sa.Column("job_id", number, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        _job("job_webhooks"),
        sa.PrimaryKeyConstraint("job_id", "url", name=op.f("pk_job_webhooks")),
    )
    op.create_table(
        "job_watches",
        sa.Column("job_id", number, nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("since", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("failing", sa.Boolean(), nullable=False),
        sa.Column("stalled", sa.Boolean(), nullable=False),
        _job("job_watches"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_watches")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", number, nullable=False),
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", number, nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("shown", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="waiting", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=True),
        sa.Column("due_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'sent', 'failed')", name=op.f("ck_notifications_state")
        ),
        sa.CheckConstraint(
            "kind IN ('webhook', 'setting', 'command')", name=op.f("ck_notifications_kind")
        ),
        sa.CheckConstraint(
            "state != 'sent' OR sent_at IS NOT NULL", name=op.f("ck_notifications_sent")
        ),
        _job("notifications"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    op.create_index(op.f("ix_notifications_job_id"), "notifications", ["job_id"])
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "ix_notifications_waiting",
        "notifications",
        ["due_at"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
