"""What clients of `imagemill serve` uploaded is removed by the dispatcher when nobody needs it.

A picture that an image starts from stays as long as that image's row: without it the image could
not be rendered, retried or reproduced. `imagemill rm` and `prune` remove rows.

A picture in the store that is not recorded as an upload was stored by `submit`, or by `serve`
before there were records (version 0019). Once it is old and no image starts from it, it is
recorded. So it goes after another such time, unless somebody uses it: nothing is removed on the
day of an upgrade.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError
from imagemill.db.queries.api import uploads
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import INPUTS, input_digest, input_key

log = logging.getLogger(__name__)

EVERY_SECONDS = 86_400.0
"""A look for old pictures reads all images."""

_PAGE = 10_000
"""Pictures of one look at all images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """How many uploaded pictures and files were removed, and how many pictures were `found`: in
    the store, recorded by nobody, and now awaiting their removal."""

    pictures: int
    files: int
    found: int = 0


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
        return Swept(pictures=pictures, files=files, found=self._record_found(stopped))

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
                if done.found:
                    log.warning(
                        "%d input pictures in %s are needed by no image of this database; "
                        "they will be removed in %g days unless they are used",
                        done.found,
                        open_storage(self.settings).uri,
                        self.settings.uploads_days,
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

    def _record_found(self, stopped: Callable[[], bool]) -> int:
        """Record old pictures that nobody has recorded and no image starts from; how many."""
        # A machine whose clock is wrong records some too early. How long they stay from then on is
        # by the database's clock.
        before = datetime.now(UTC) - self.age
        files = open_storage(self.settings).list(f"{INPUTS}/")
        old = (input_digest(file.key) for file in files if file.modified < before)
        digests = (digest for digest in old if digest is not None)
        found = 0
        while not stopped() and (page := list(islice(digests, _PAGE))):
            with self.database.reading() as session:
                unknown = uploads.unknown(session, page)
                unknown -= uploads.referred_to(session, unknown) if unknown else set()
            self.database.run(partial(uploads.record_found, digests=unknown))
            found += len(unknown)
        return found

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
