"""Creates and checks the schema, with Alembic migrations for both Postgres and SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

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


def ensure_schema(database: Database) -> None:
    """Upgrade a SQLite file of an earlier version, then `check_schema`.

    The file belongs to one machine, and migrations only add, so nobody has to be asked. A cluster's
    database is upgraded by its operator (`imagemill migrate`). A file that can only be read stays.
    """
    if database.is_sqlite and not database.read_only and _is_earlier(database):
        migrate(database)
    check_schema(database)


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
    with _reading(database) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head():
            return
        if current is None:
            raise SchemaError(f"{database.url} has no imagemill schema; run `imagemill migrate`")
        known = _known_revisions()
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


@contextmanager
def _reading(database: Database) -> Iterator[Connection]:
    with (
        database.translated(),
        database.engine.connect().execution_options(writes=False) as connection,
    ):
        yield connection


def _is_earlier(database: Database) -> bool:
    if database.file is None or not database.file.is_file():
        return False
    with _reading(database) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current != head() and current in _known_revisions()


def _known_revisions() -> set[str]:
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return {script.revision for script in scripts}


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(str(resources.files("imagemill.db"))) / "migrations")
    )
    config.set_main_option("path_separator", "os")
    return config
