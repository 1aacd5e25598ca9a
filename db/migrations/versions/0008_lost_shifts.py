"""For metrics: an index of the shifts that lost their lease, which few did."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add an index; code that does not know it goes on working."""
    lost = sa.text("end_reason = 'lost'")
    op.create_index("ix_shifts_lost", "shifts", ["id"], postgresql_where=lost, sqlite_where=lost)
