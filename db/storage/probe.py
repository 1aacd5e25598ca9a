"""Trying a store out before work depends on it, the same way for every kind of store."""

import secrets
from contextlib import suppress

from imagemill.db.errors import ObjectConflict, StorageError
from imagemill.db.storage import Storage

PROBE_PREFIX = "probe-"
"""`deploy/s3-policy.json` lets a worker delete objects that begin like this, and no others."""


def probe_name() -> str:
    """A key for one probe: `probe-` and 16 random hex digits."""
    return PROBE_PREFIX + secrets.token_hex(8)


def try_out(storage: Storage, key: str) -> None:
    """Put, put again, read, look up, list and delete the object `key`, which must be new.

    A `StorageError` names the first step whose effect is not there. The object is deleted in
    any case; a crash in between leaves a few bytes for the sweep.
    """
    body = f"imagemill probe {key}".encode()
    media_type = "text/plain"
    try:
        # What this returns can't be relied on: it is False after a lost answer to a good request.
        storage.put(key, body, media_type=media_type)
        again = storage.put(key, body, media_type=media_type)
        _expect(storage, "a second write of the same bytes finds them", not again)
        _expect(storage, "other bytes under the same key are refused", _refuses(storage, key))
        _expect(storage, "an object reads back as written", storage.get(key) == body)
        found = storage.stat(key)
        right_size = found is not None and found.size == len(body)
        _expect(storage, "an object's size is right", right_size)
        listed = [item.key for item in storage.list(key)]
        _expect(storage, "an object is listed at once", listed == [key])
    except StorageError:
        # What went wrong first is the message; that deleting fails as well adds nothing.
        with suppress(StorageError):
            storage.delete(key)
        raise
    storage.delete(key)
    _expect(storage, "a deleted object is gone", storage.stat(key) is None)


def _refuses(storage: Storage, key: str) -> bool:
    try:
        storage.put(key, b"other bytes", media_type="text/plain")
    except ObjectConflict:
        return True
    return False


def _expect(storage: Storage, step: str, done: bool) -> None:
    if not done:
        raise StorageError(f"{storage.uri} can't be used; this does not hold: {step}")
