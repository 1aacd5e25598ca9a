"""The gallery's pictures: read through the storage interface, so that no address of it is shown.

A picture's bytes are compared with the recorded hash before they are sent.
"""

import threading
from typing import NamedTuple

from cachetools import LRUCache

from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.pages.picture_bytes import checked_picture
from imagemill.scheduler_jobs.pages.thumbnails import MEDIA_TYPE, thumbnail

THUMBNAIL_SIZE = 384
_CACHE_BYTES = 128 << 20


class Picture(NamedTuple):
    """A file as it is sent."""

    body: bytes
    media_type: str


class Pictures:
    """Reads pictures and keeps the small copies that were made last. Many threads may use it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._copies: LRUCache[str, bytes] = LRUCache(_CACHE_BYTES, getsizeof=len)
        self._lock = threading.Lock()

    def whole(self, image: ImageReport) -> Picture | None:
        """The image's file; None if there is none, or if it is not the recorded one."""
        body = checked_picture(self._storage, image)
        return None if body is None else Picture(body, f"image/{image.format}")

    def small(self, image: ImageReport) -> Picture | None:
        """A small copy of the image's picture; None as for `whole`."""
        key = image.sha256 or ""
        with self._lock:
            copy = self._copies.get(key)
        if copy is None:
            whole = self.whole(image)
            copy = None if whole is None else thumbnail(whole.body, THUMBNAIL_SIZE)
            if copy is None:
                return None
            with self._lock:
                self._copies[key] = copy
        return Picture(copy, MEDIA_TYPE)
