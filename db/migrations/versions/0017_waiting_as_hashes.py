"""On PostgreSQL the index of waiting requests has hashes: a third of the bytes of one of texts.

SQLite has no such index and stays as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make the index anew; code that does not know it goes on working."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP INDEX IF EXISTS ix_images_waiting")
    op.create_index(
        "ix_images_waiting",
        "images",
        ["request_key"],
        postgresql_using="hash",
        postgresql_where=sa.text("shift_id IS NULL AND object_id IS NULL"),
    )
