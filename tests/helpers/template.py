"""An empty SQLite database with the schema, migrated once in each test process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from imagemill.db.database import Database
from imagemill.db.engines import sqlite_file
from imagemill.db.schema import migrate


def copy_of_template(file: Path) -> Path:
    """A new, empty database with the schema at `file`; migrating takes a hundred times as long."""
    return shutil.copy(_template(), file)


def migrate_quickly(database: Database) -> None:
    """Give a database the schema. A SQLite file that is not there yet is a copy of the template."""
    file = sqlite_file(database.engine.url.render_as_string(hide_password=False))
    if file is not None and not file.exists():
        copy_of_template(file)
    migrate(database)


@cache
def _template() -> Path:
    folder = tempfile.mkdtemp(prefix="imagemill-test-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "template.sqlite3"
    database = Database(f"sqlite:///{file}")
    migrate(database)
    database.close()
    return file
