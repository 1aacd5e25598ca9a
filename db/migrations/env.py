"""How Alembic runs here: on the connection that `imagemill.db.schema.migrate` hands over."""

from alembic import context
from sqlalchemy import text

from imagemill.db.tables import Base

_MIGRATION_LOCK = 0x1A6E_3111
"""Any constant: the advisory lock that lets one migration run at a time."""

connection = context.config.attributes["connection"]
postgres = connection.dialect.name == "postgresql"
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=not postgres,
    transactional_ddl=True,
)
with context.begin_transaction():
    if postgres:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    context.run_migrations()
connection.commit()
