"""The store of pictures: a folder or an S3-compatible bucket, behind one interface.

Keys are relative; `/` separates their parts and is never first or last. An object never changes:
`put` creates it or finds the same bytes, and nothing overwrites it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from imagemill.db.documents import JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One object in the store: `size` is in bytes, `modified` in UTC by the store's clock."""

    key: str = field(metadata={JSON: "object_key"})
    size: int = field(metadata={JSON: "size_bytes"})
    modified: datetime


class Storage(Protocol):
    """What imagemill needs from a store. Every method may raise `StorageError` or a subclass."""

    @property
    def uri(self) -> str:
        """The store's address as in its setting, without secrets."""

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        """Store `body` under `key` unless the key is taken; return whether this call created it.

        If the key is taken, length and SHA-256 are compared: equal bytes count as stored (False),
        other bytes raise `ObjectConflict`. After an unknown outcome, calling it again is safe; it
        may then return False for an object that the first call created. Many threads may call it.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises `ObjectMissing` if there is no object.

        They are returned as they are in the store. The caller compares their SHA-256 with the
        recorded one to find damage.
        """

    def stat(self, key: str) -> StoredObject | None:
        """Size and age of an object; None if there is no object."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, in no particular order."""

    def delete(self, key: str) -> None:
        """Remove an object. Does nothing if there is none."""

    def object_uri(self, key: str) -> str:
        """The address of the object for other programs: `file:///…` or `s3://bucket/…`."""

    def leftovers(self) -> Iterator[StoredObject]:
        """Files that a writer has begun and not finished. They are never objects.

        The writer may have crashed or may still be writing. `list` skips these files, and a sweep
        discards those that are old enough.
        """

    def discard(self, leftover: StoredObject) -> None:
        """Remove one of `leftovers`. Does nothing if it is gone."""

    def probe(self) -> str:
        """Write, find and delete a test object; return one line on what the store can do.

        The probe finds out whether the store honours conditional PUT. If not, this instance looks
        for a key before it writes, from now on. So every process that calls `put` must call
        `probe` once when it starts.
        """
