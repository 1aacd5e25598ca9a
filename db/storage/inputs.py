"""Init images and masks in the store: under their content's hash, put there by `submit`.

Workers need no access to the folder that they came from, and an image can be rendered again as
long as the store exists.
"""

import hashlib

from db.errors import InputImageError, ObjectMissing
from db.storage import Storage

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
    """An input file's bytes, verified; an `InputImageError` if it is missing or damaged."""
    try:
        body = storage.get(input_key(digest))
    except ObjectMissing:
        raise InputImageError(f"input image {digest[:10]}… is not in the store") from None
    if hashlib.sha256(body).hexdigest() != digest:
        raise InputImageError(f"input image {digest[:10]}… is damaged in the store")
    return body
