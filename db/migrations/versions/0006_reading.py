"""For readers: views of jobs and failures, comments, and the order in which history becomes known.

A sequence hands out numbers before a transaction ends, so on Postgres a lower id may become visible
after a higher one. `transaction_id` says which transaction wrote a line: once every transaction
before some number is over, no line with a lower number can come any more.
"""

import sqlalchemy as sa
from alembic import op

from imagemill.db.view_columns import describe_views
from imagemill.db.views import DATASET_FAILURES, dataset_jobs

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add two views, a column and an index; code that does not know them goes on working."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        # In two steps, so that the table is not written anew: lines from before keep NULL.
        op.execute("ALTER TABLE attempts ADD COLUMN transaction_id xid8")
        op.execute(
            "ALTER TABLE attempts ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()"
        )
    else:
        op.execute("ALTER TABLE attempts ADD COLUMN transaction_id INTEGER DEFAULT 0")
    done = sa.text("event = 'done'")
    op.create_index(
        "ix_attempts_done",
        "attempts",
        ["transaction_id", "id"],
        postgresql_where=done,
        sqlite_where=done,
    )
    op.execute(f"CREATE VIEW dataset_jobs AS {dataset_jobs(connection.dialect.name)}")
    op.execute(f"CREATE VIEW dataset_failures AS {DATASET_FAILURES}")
    describe_views(connection)
