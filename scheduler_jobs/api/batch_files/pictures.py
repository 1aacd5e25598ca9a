"""The pictures of a batch of edits: its lines name uploaded files, often the same many times."""

import hashlib
from collections.abc import Collection
from functools import lru_cache

from imagemill.db.database import Database
from imagemill.db.queries.api.files import read_file
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.requests.uploaded_pictures import keep_picture

_KEPT = 8
"""Files that are kept in memory; each may have 64 MiB."""


class BatchPictures:
    """Reads the uploaded files of one owner, and stores each picture once."""

    def __init__(self, database: Database, storage: Storage, owner: str) -> None:
        self._database = database
        self._storage = storage
        # Where no key is asked for, everybody sees every file.
        self._owner = owner or None
        self._stored: set[bytes] = set()
        self.content_of = lru_cache(_KEPT)(self._read)

    def store(self, pictures: Collection[bytes]) -> None:
        """Store pictures that are not stored yet. Raises `StorageError`."""
        for content in pictures:
            digest = hashlib.sha256(content).digest()
            if digest not in self._stored:
                keep_picture(self._database, self._storage, content)
                self._stored.add(digest)

    def _read(self, file_id: str) -> bytes | None:
        with self._database.reading() as session:
            return read_file(session, file_id, owner=self._owner)
