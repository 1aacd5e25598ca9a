"""The bytes of an image's picture, for pages that go on without it."""

import hashlib

from imagemill.db.errors import StorageError
from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.storage import Storage


def picture_bytes(storage: Storage, image: ImageReport) -> bytes | None:
    """The image's file; None if it has none, or if the store will never give it.

    Raises a retryable `StorageError`, as of a store that is down.
    """
    if image.object_key is None:
        return None
    try:
        return storage.get(image.object_key)
    except StorageError as error:
        if error.retryable:
            raise
        return None


def checked_picture(storage: Storage, image: ImageReport) -> bytes | None:
    """The image's file; None as for `picture_bytes`, and if it is not the recorded one."""
    body = picture_bytes(storage, image)
    if body is None or hashlib.sha256(body).hexdigest() != image.sha256:
        return None
    return body
