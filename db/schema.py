"""Creates and checks the schema, with Alembic migrations for both Postgres and SQLite."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from imagemill.db.database import Database
from imagemill.db.errors import SchemaError


def migrate(database: Database) -> str:
    """Bring the database to this version's schema; return the revision."""
    config = _config()
    # Several processes may migrate one database: they wait for each other (migrations/env.py).
    with database.translated(), database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def head() -> str:
    """The newest revision of the schema that this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "the package ships at least one migration"
    return revision


def check_schema(database: Database) -> None:
    """Raise `SchemaError` unless this code can work with the database's schema.

    Raises `DatabaseError` if the database does not answer. An empty database needs
    `imagemill migrate`. A schema that is newer than this code is accepted if its migrations only
    added to it: each migration records in `schema_compatibility` the oldest revision whose code
    still works.
    """
    if database.file is not None and not database.file.exists():
        # Connecting would create an empty file.
        raise SchemaError(f"{database.url} does not exist; run `imagemill migrate`")
    with (
        database.translated(),
        database.engine.connect().execution_options(writes=False) as connection,
    ):
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head():
            return
        if current is None:
            raise SchemaError(f"{database.url} has no imagemill schema; run `imagemill migrate`")
        known = {
            script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()
        }
        if current in known:
            raise SchemaError(
                f"{database.url} is at schema {current}, this version needs {head()}; "
                "run `imagemill migrate`"
            )
        if inspect(connection).has_table("schema_compatibility"):
            works_with = connection.exec_driver_sql(
                "SELECT oldest_revision FROM schema_compatibility"
            ).scalar()
            if works_with in known:
                return
    raise SchemaError(
        f"{database.url} is at schema {current}, which this version (up to {head()}) does not "
        "know; upgrade imagemill"
    )


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(str(resources.files("imagemill.db"))) / "migrations")
    )
    config.set_main_option("path_separator", "os")
    return config
