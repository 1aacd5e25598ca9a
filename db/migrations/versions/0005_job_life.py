"""Labels and notes of jobs, and the record of removed ones."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime, now

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add four tables; the history of an image goes with it. Older code goes on working."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "job_labels",
        sa.Column("job_id", number, nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_labels_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_job_labels")),
    )
    op.create_index("ix_job_labels_key_value", "job_labels", ["key", "value", "job_id"])
    op.create_table(
        "job_notes",
        sa.Column("job_id", number, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_notes_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_notes")),
    )
    counts = ("images", "objects", "size_bytes", "last_image_id")
    op.create_table(
        "removed_jobs",
        sa.Column("id", number, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in counts),
        sa.Column("begun_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_removed_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_removed_jobs_job_id")),
    )
    op.create_table(
        "removed_objects",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("request_key", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_removed_objects")),
    )
    op.create_index(op.f("ix_removed_objects_request_key"), "removed_objects", ["request_key"])
    name = op.f("fk_attempts_image_id_images")
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_constraint(name, type_="foreignkey")
        attempts.create_foreign_key(name, "images", ["image_id"], ["id"], ondelete="CASCADE")
