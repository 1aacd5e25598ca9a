"""Recording where the object store is: done by every process that opens it, at its start."""

import logging
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import exc

from imagemill.db.database import Database
from imagemill.db.errors import first_line
from imagemill.db.queries.store_address import record_address, recorded_store
from imagemill.db.real_paths import real_path
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage

log = logging.getLogger(__name__)

_ANY_KEY = "key"
"""No key needs quoting in a URL, so whatever stands before any of them is the store's address."""


def record_store(database: Database, storage: Storage) -> None:
    """Make this the store's present address; nothing is written where it is known as that.

    A role without the right to do so goes on with a warning: no picture depends on it.
    """
    address = storage.object_uri(_ANY_KEY).removesuffix(f"/{_ANY_KEY}")
    below = _below(database.file, address)
    try:
        with database.reading() as session:
            known = recorded_store(session)
        if known != (address, below):
            database.run(
                lambda session: record_address(session, address=address, below_database=below)
            )
    except exc.ProgrammingError as error:
        log.warning("the store's address is not recorded: %s", first_line(error.orig or error))


def record_named_store(database: Database, settings: Settings) -> None:
    """The same for a process that stores nothing: only what its settings name counts.

    Its default is a folder of its own working folder, where no worker may ever have been.
    """
    if "storage_url" in settings.model_fields_set:
        record_store(database, open_storage(settings))


def _below(database: Path | None, address: str) -> str | None:
    """What a folder store's URL has after the URL of the folder that holds the SQLite file."""
    parts = urlsplit(address)
    if database is None or parts.scheme != "file":
        return None
    # SQLite names its file without symbolic links; the store's own folder may be one.
    above = real_path(database).parent
    folder = Path(unquote(parts.path))
    for place in (folder, real_path(folder)):
        if place.is_relative_to(above):
            return quote("".join(f"/{part}" for part in place.relative_to(above).parts))
    return None
