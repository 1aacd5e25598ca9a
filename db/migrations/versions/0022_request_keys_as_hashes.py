"""On PostgreSQL an index of hashes keeps the requests of objects apart, as `0021` does their keys.

It also finds objects by their requests. SQLite has no such index and stays as it is.
"""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Put one constraint in the other's place; code that does not know it goes on working."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "ALTER TABLE objects ADD CONSTRAINT ex_objects_request_key"
        " EXCLUDE USING hash (request_key WITH =)"
    )
    op.execute("ALTER TABLE objects DROP CONSTRAINT IF EXISTS uq_objects_request_key")
