"""For the gallery: an index in the order of a score."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add an index; code that does not know it goes on working."""
    number = sa.text("value IS NOT NULL")
    op.create_index(
        "ix_scores_value",
        "scores",
        ["name", "value", "image_id"],
        postgresql_where=number,
        sqlite_where=number,
    )
