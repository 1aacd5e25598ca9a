"""Pictures that came with requests of the HTTP API, so that they can be swept."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import now

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the table. Pictures that were uploaded before are not in it, and stay."""
    op.create_table(
        "uploads",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_used_at"), "uploads", ["used_at"])
