"""Owners of jobs, and the weights by which owners and jobs share the workers."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add two columns with defaults and a table. An older worker goes on, and minds no weights."""
    op.add_column("jobs", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
    op.add_column("jobs", sa.Column("owner", sa.String(64), server_default="", nullable=False))
    op.create_table(
        "owners",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_owners")),
    )
