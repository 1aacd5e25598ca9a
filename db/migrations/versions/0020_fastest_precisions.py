"""Which precision is the fastest, by model and kind of processor."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a table. An older worker knows no `dtype = "fastest"` and does not read it."""
    op.create_table(
        "fastest_precisions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("torch", sa.Text(), nullable=False),
        sa.Column("precision", sa.String(8), nullable=False),
        sa.Column("bf16_speed", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fastest_precisions")),
        sa.UniqueConstraint(
            "weights_digest",
            "device",
            "torch",
            name=op.f("uq_fastest_precisions_weights_digest_device_torch"),
        ),
    )
