"""Workers that are pinned to a job or model, and jobs with a most number of workers."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add columns and a table. An older worker goes on, and minds neither pins nor seats."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("max_workers", sa.Integer(), nullable=True))
    op.add_column("workers", sa.Column("pinned_as", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("pinned_job_id", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("pinned_model", sa.Text(), nullable=True))
    op.create_table(
        "job_seats",
        sa.Column("job_id", number, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("shift_id", number, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_seats_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["shift_id"], ["shifts.id"], name=op.f("fk_job_seats_shift_id_shifts")
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_seats")),
    )
