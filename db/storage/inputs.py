"""Init images and masks in the store: under their content's hash, put there by `submit`.

Workers need no access to the folder that they came from, and an image can be rendered again as
long as the store exists.
"""

import hashlib

from imagemill.db.errors import InputImageError, ObjectMissing
from imagemill.db.storage import Storage

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""The largest input file that is kept by `submit` and read by a worker."""

INPUTS = "inputs"
"""The keys' first segment; the sweep leaves everything under it alone."""


def input_key(digest: str) -> str:
    """The key of an input file, by the SHA-256 (hex) of its bytes."""
    return f"{INPUTS}/{digest[:2]}/{digest}"


def store_input(storage: Storage, body: bytes) -> str:
    """Keep an input file; its SHA-256 (hex)."""
    digest = hashlib.sha256(body).hexdigest()
    storage.put(input_key(digest), body, media_type="application/octet-stream")
    return digest


def fetch_input(storage: Storage, digest: str) -> bytes:
    """An input file's bytes, verified; an `InputImageError` if it is missing or damaged.

    One that `submit` would have refused for its size is not read.
    """
    key = input_key(digest)
    try:
        found = storage.stat(key)
        if found is not None and found.size > MAX_INPUT_BYTES:
            raise InputImageError(
                f"input image {digest[:10]}… has {found.size:,} bytes; allowed: {MAX_INPUT_BYTES:,}"
            )
        body = storage.get(key)
    except ObjectMissing:
        raise InputImageError(f"input image {digest[:10]}… is not in the store") from None
    if hashlib.sha256(body).hexdigest() != digest:
        raise InputImageError(f"input image {digest[:10]}… is damaged in the store")
    return body
