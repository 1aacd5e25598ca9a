"""Where the pictures go: a folder or an S3-compatible bucket, behind one interface.

Keys are relative, use `/`, and never start or end with it. An object never changes: `put`
creates or finds the same bytes, nothing overwrites.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One object in the store: `size` in bytes, `modified` in UTC by the store's clock."""

    key: str
    size: int
    modified: datetime


class Storage(Protocol):
    """What imagemill needs of a store. Every method raises `StorageError` or a subclass."""

    @property
    def uri(self) -> str:
        """The store as its setting names it, without secrets."""

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        """Store `body` under `key` unless something is there; whether this call created it.

        Something already there is compared by length and SHA-256: equal counts as stored
        (False), different is an `ObjectConflict`. Safe to repeat after an unknown outcome; it
        then says False even where the lost call created the object. Safe from many threads.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes, `ObjectMissing` if there is none.

        All of them, as they lie in the store: damage at rest shows in their SHA-256, which is
        the caller's to compare with the recorded one.
        """

    def stat(self, key: str) -> StoredObject | None:
        """Size and age of an object, None if there is none."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, in no particular order."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def object_uri(self, key: str) -> str:
        """Where a reader finds the object: `file:///…` or `s3://bucket/…`."""

    def leftovers(self) -> Iterator[StoredObject]:
        """What writers have begun and not finished, crashed or still at it: never an object.

        `list` skips them. A sweep discards those that are old enough.
        """

    def discard(self, leftover: StoredObject) -> None:
        """Remove one of `leftovers`; nothing happens if it is gone."""

    def probe(self) -> str:
        """Write, find and delete a test object; a readable line on what the store can do.

        In particular whether it honours conditional PUT; if not, this instance looks first and
        then writes from here on. So every process that puts, probes once when it starts.
        """
