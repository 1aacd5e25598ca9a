"""On PostgreSQL the keys of objects are found by an index of hashes, a fifth of one of texts.

That a key is there once follows from its request key, which is a part of it and is unique. SQLite
stays as it is: it has no such index, and can't drop a constraint.
"""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Replace the index; code that does not know it goes on working."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("ALTER TABLE objects DROP CONSTRAINT IF EXISTS uq_objects_object_key")
    op.execute("DROP INDEX IF EXISTS ix_objects_object_key")
    op.create_index("ix_objects_object_key", "objects", ["object_key"], postgresql_using="hash")
