"""Labels of workers, what jobs need of them, and deadlines of jobs."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add three columns. An older worker goes on, and does not mind what a job needs."""
    op.add_column("jobs", sa.Column("needs", sa.Text(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("deadline_at", UtcDateTime(), nullable=True))
    op.add_column("workers", sa.Column("labels", sa.Text(), server_default="", nullable=False))
