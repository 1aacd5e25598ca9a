"""What clients of `imagemill serve` uploaded is removed by the dispatcher when nobody needs it.

A picture that an image starts from stays as long as that image's row: without it the image could
not be rendered, retried or reproduced. `imagemill rm` and `prune` remove rows.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError
from imagemill.db.queries.api import uploads
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import input_key

log = logging.getLogger(__name__)

EVERY_SECONDS = 86_400.0
"""A look for old pictures reads all images."""

_PAGE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """How many uploaded pictures and files were removed."""

    pictures: int
    files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadRetention:
    """Removes what was uploaded and not used for `age`."""

    database: Database
    settings: Settings
    age: timedelta

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> "UploadRetention | None":
        """None if the settings keep everything."""
        if settings.uploads_days == 0:
            return None
        return cls(database=database, settings=settings, age=timedelta(days=settings.uploads_days))

    def run_once(self, stopped: Callable[[], bool] = lambda: False) -> Swept:
        """Remove what is due. Nothing is, while a request waits to become a job."""
        with self.database.reading() as session:
            if not uploads.are_requests_loaded(session):
                return Swept(pictures=0, files=0)
        pictures = sum(self._remove(page) for page in self._unused(stopped))
        files = self.database.run(
            lambda session: (
                uploads.delete_old_files(session, older_than=self.age)
                if uploads.are_requests_loaded(session)
                else 0
            )
        )
        return Swept(pictures=pictures, files=files)

    def run_until(self, stop: threading.Event) -> None:
        """Remove what is due every day, until `stop` is set. Trouble is logged."""
        while not stop.is_set():
            try:
                done = self.run_once(stop.is_set)
            except ImagemillError as error:
                log.warning("removing old uploads: %s", error)
            else:
                if done.pictures or done.files:
                    log.info(
                        "old uploads removed: %d pictures, %d files", done.pictures, done.files
                    )
            stop.wait(EVERY_SECONDS)

    def _unused(self, stopped: Callable[[], bool]) -> Iterator[list[str]]:
        """Pages of pictures that are old and that no image starts from."""
        after = ""
        while not stopped():
            with self.database.reading() as session:
                page = uploads.old_uploads(session, older_than=self.age, limit=_PAGE, after=after)
                needed = uploads.referred_to(session, page) if page else set()
            yield [digest for digest in page if digest not in needed]
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _remove(self, digests: list[str]) -> int:
        """Delete the files of pictures that still nobody has asked for; how many."""
        if not digests:
            return 0
        storage = open_storage(self.settings)
        removed = 0
        for digest in digests:

            def delete_one(session: Session, digest: str = digest) -> int:
                taken = uploads.take_old_uploads(session, [digest], older_than=self.age)
                for each in taken:
                    storage.delete(input_key(each))
                return len(taken)

            removed += self.database.run(delete_one)
        return removed
