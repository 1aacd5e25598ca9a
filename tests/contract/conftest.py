"""Databases with the schema in them, copied from a template that is migrated once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemill.db.database import Database
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.notifications.notifier import Notifier
from tests.helpers.http.api import ServedApi, served_api
from tests.helpers.http.webhooks import WebhookServer, webhook_server
from tests.helpers.mill import Mill
from tests.helpers.notified import settings
from tests.helpers.template import copy_of_template


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{copy_of_template(tmp_path / 'migrated.sqlite3')}")
    yield database
    database.close()


@pytest.fixture
def postgres_database(migrated_url: str) -> Iterator[Database]:
    database = Database(migrated_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """A database with the schema in it: once SQLite, once PostgreSQL."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def mill(database: Database) -> Iterator[Mill]:
    """A database to work on. Whatever the test did, no promise is broken at its end."""
    mill = Mill(database)
    yield mill
    assert mill.audit() == []


@pytest.fixture
def sqlite_mill(sqlite_database: Database) -> Mill:
    """A SQLite database to work on, where the other database would show nothing more."""
    return Mill(sqlite_database)


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


@pytest.fixture
def sender(mill: Mill, server: WebhookServer) -> Iterator[Notifier]:
    """A dispatcher's notifier whose one receiver is the server."""
    notifier = Notifier(mill.database, settings(server))
    yield notifier
    notifier.close()


@pytest.fixture
def api(mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> Iterator[ServedApi]:
    """`imagemill serve` on each of the databases."""
    with served_api(mill, folder_storage, tmp_path) as served:
        yield served


@pytest.fixture
def api_on_sqlite(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> Iterator[ServedApi]:
    """On one database, for what does not depend on it."""
    with served_api(sqlite_mill, folder_storage, tmp_path) as served:
        yield served
