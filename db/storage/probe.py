"""Tests a store before work depends on it, in the same way for every kind of store."""

import secrets
from contextlib import suppress

from imagemill.db.errors import ObjectConflict, StorageError
from imagemill.db.storage import Storage

PROBE_PREFIX = "probe-"
"""`deploy/s3-policy.json` allows a worker to delete objects with this prefix, and no others."""


def probe_name() -> str:
    """A key for one probe: `probe-` and 16 random hex digits."""
    return PROBE_PREFIX + secrets.token_hex(8)


def try_out(storage: Storage, key: str) -> None:
    """Put, put again, read, look up, list and delete the object `key`, which must be new.

    Raises `StorageError`, which names the first step that had no effect. The object is deleted in
    any case; after a crash, the sweep removes it.
    """
    body = f"imagemill probe {key}".encode()
    media_type = "text/plain"
    try:
        # The result is not used: it is False if the answer to the first request was lost.
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
        # The first error is reported. A failing delete would add nothing to it.
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
