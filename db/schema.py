"""Creates and checks the schema, with Alembic migrations for both Postgres and SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect

from imagemill.db.database import Database
from imagemill.db.errors import SchemaError

if TYPE_CHECKING:
    from alembic.config import Config


def migrate(database: Database) -> str:
    """Bring the database to this version's schema; return the revision."""
    from alembic import command  # noqa: PLC0415  # 0.2 s, which checks of a schema need not wait for

    config = _config()
    # Several processes may migrate one database: they wait for each other (migrations/env.py).
    with database.translated(), database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def head() -> str:
    """The newest revision of the schema that this code knows."""
    return max(_known_revisions())


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
        current = _revision_of(connection)
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


def check_revision(revision: str) -> None:
    """Raise `SchemaError` if this version does not know the schema of a database's copy."""
    if revision not in _known_revisions():
        raise SchemaError(
            f"it is at schema {revision}, which this version (up to {head()}) does not know; "
            "upgrade imagemill"
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
        current = _revision_of(connection)
    return current != head() and current in _known_revisions()


def _revision_of(connection: Connection) -> str | None:
    """What Alembic wrote into the database; None where it never ran."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql(
        "SELECT version_num FROM alembic_version"
    ).scalar()
    return revision


def _known_revisions() -> set[str]:
    """The revisions of this version's migrations: the numbers in the names of their files.

    Alembic would import every migration to tell them, and every command and worker asks.
    """
    return {file.name[:4] for file in (_migrations() / "versions").glob("[0-9]*.py")}


def _migrations() -> Path:
    return Path(str(resources.files("imagemill.db"))) / "migrations"


def _config() -> "Config":
    from alembic.config import Config  # noqa: PLC0415  # see `migrate`

    config = Config()
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("path_separator", "os")
    return config
