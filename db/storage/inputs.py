"""Init images and masks in the store. `submit` puts them there, under the hash of their content.

So workers need no access to the folder that they come from, and an image can be rendered again as
long as its job exists.
"""

import hashlib
import re

from imagemill.db.errors import InputImageError, ObjectMissing
from imagemill.db.storage import Storage

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""The largest input file that `submit` stores and a worker reads."""

INPUTS = "inputs"
"""The first segment of their keys. `sweep` deletes nothing under it."""

_INPUT = re.compile(rf"{INPUTS}/(?P<two>[0-9a-f]{{2}})/(?P<digest>(?P=two)[0-9a-f]{{62}})")


def input_key(digest: str) -> str:
    """The key of an input file, by the SHA-256 (hex) of its bytes."""
    return f"{INPUTS}/{digest[:2]}/{digest}"


def input_digest(key: str) -> str | None:
    """The SHA-256 (hex) in an input file's key; None for a key that `input_key` never makes."""
    found = _INPUT.fullmatch(key)
    return None if found is None else found["digest"]


def store_input(storage: Storage, body: bytes) -> str:
    """Store an input file; return its SHA-256 (hex)."""
    digest = hashlib.sha256(body).hexdigest()
    storage.put(input_key(digest), body, media_type="application/octet-stream")
    return digest


def fetch_input(storage: Storage, digest: str) -> bytes:
    """An input file's bytes, checked against the digest.

    Raises `InputImageError` if the file is missing, damaged or larger than `submit` allows.
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
