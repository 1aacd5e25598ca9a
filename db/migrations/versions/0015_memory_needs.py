"""The memory of workers' cards, and what models need of it."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a table and two columns. An older worker goes on, and tries whatever it is given."""
    op.create_table(
        "memory_needs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("tuning", sa.String(64), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("needed_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("too_small_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memory_needs")),
        sa.UniqueConstraint("tuning", "key", name=op.f("uq_memory_needs_tuning_key")),
    )
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("tuning", sa.String(64), server_default="", nullable=False))
