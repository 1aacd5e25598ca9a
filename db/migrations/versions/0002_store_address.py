"""The store's present address, from which the view derives where each object is."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.migrations.dataset_images import SIGNED_SEED, dataset_images

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table `store`, and let the view read it; older code does not miss anything."""
    op.create_table(
        "store",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("below_database", sa.Text(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_store_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_store")),
    )
    dialect = op.get_bind().dialect.name
    view = dataset_images(dialect, seed=SIGNED_SEED)
    if dialect == "sqlite":
        op.execute("DROP VIEW dataset_images")
        op.execute(f"CREATE VIEW dataset_images AS {view}")
    else:
        # Replaced and not made anew: readers keep the rights that they were granted on it.
        op.execute(f"CREATE OR REPLACE VIEW dataset_images AS {view}")
