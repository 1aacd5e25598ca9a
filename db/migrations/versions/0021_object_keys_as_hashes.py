"""On PostgreSQL an index of hashes keeps the keys of objects apart: a sixth of one of texts.

A hash index can't be unique, but an exclusion constraint with it refuses the same. SQLite has
neither and stays as it is.
"""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Put one constraint in the other's place; code that does not know it goes on working."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "ALTER TABLE objects ADD CONSTRAINT ex_objects_object_key"
        " EXCLUDE USING hash (object_key WITH =)"
    )
    op.execute("ALTER TABLE objects DROP CONSTRAINT IF EXISTS uq_objects_object_key")
