"""Scores and tags of images, the work of scorers, and both in the readers' views."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime, now
from imagemill.db.migrations.dataset_images import TAGS, dataset_images
from imagemill.db.views.columns import describe_views

revision = "0007"
down_revision = "0006"

_DATASET_SCORES = """
SELECT
  s.image_id, i.job_id, j.name AS job_name, s.name, s.value, s.text, s.scorer, s.version,
  s.created_at
FROM scores AS s
JOIN images AS i ON i.id = s.image_id AND i.generation = s.generation
JOIN jobs AS j ON j.id = i.job_id
WHERE i.state = 'done'
"""


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _of_image(table: str) -> sa.ForeignKeyConstraint:
    """What is said of an image goes with the image."""
    return sa.ForeignKeyConstraint(
        ["image_id"],
        ["images.id"],
        name=op.f(f"fk_{table}_image_id_images"),
        ondelete="CASCADE",
    )


def upgrade() -> None:
    """Add the tables, and `tags` at the end of the view; older code does not miss anything."""
    op.create_table(
        "scores",
        sa.Column("image_id", _id(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("scorer", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("(value IS NULL) != (text IS NULL)", name=op.f("ck_scores_one_value")),
        _of_image("scores"),
        sa.PrimaryKeyConstraint("image_id", "name", name=op.f("pk_scores")),
    )
    op.create_table(
        "score_failures",
        sa.Column("image_id", _id(), nullable=False),
        sa.Column("scorer", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        _of_image("score_failures"),
        sa.PrimaryKeyConstraint("image_id", "scorer", name=op.f("pk_score_failures")),
    )
    op.create_table(
        "score_work",
        sa.Column("id", _id(), nullable=False),
        sa.Column("job_id", _id(), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column("scorer", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("image_ids", sa.JSON(), nullable=False),
        sa.Column("shift_id", _id(), nullable=True),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_score_work_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["shift_id"], ["shifts.id"], name=op.f("fk_score_work_shift_id_shifts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score_work")),
    )
    op.create_index(op.f("ix_score_work_job_id"), "score_work", ["job_id"])
    op.create_index("ix_score_work_route", "score_work", ["route", "id"])
    op.create_table(
        "tags",
        sa.Column("image_id", _id(), nullable=False),
        sa.Column("tag", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        _of_image("tags"),
        sa.PrimaryKeyConstraint("image_id", "tag", name=op.f("pk_tags")),
    )
    op.create_index("ix_tags_tag", "tags", ["tag"])
    dialect = op.get_bind().dialect.name
    view = dataset_images(dialect, tags=TAGS)
    if dialect == "sqlite":
        op.execute("DROP VIEW dataset_images")
        op.execute(f"CREATE VIEW dataset_images AS {view}")
    else:
        # Replaced and not made anew: readers keep the rights that they were granted on it.
        op.execute(f"CREATE OR REPLACE VIEW dataset_images AS {view}")
    op.execute(f"CREATE VIEW dataset_scores AS {_DATASET_SCORES}")
    describe_views(op.get_bind())
