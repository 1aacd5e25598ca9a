"""Pictures that come with requests are recorded and stored under the hash of their bytes."""

import hashlib

from imagemill.db.database import Database
from imagemill.db.queries.api.uploads import note_upload
from imagemill.db.storage import Storage
from imagemill.db.storage.inputs import store_input


def keep_picture(database: Database, storage: Storage, content: bytes) -> None:
    """Record a picture as an upload, and store it. Raises `StorageError`."""
    digest = hashlib.sha256(content).hexdigest()
    # In this order: whoever sweeps sees that it is in use before its file is looked for.
    database.run(lambda session: note_upload(session, digest))
    store_input(storage, content)
