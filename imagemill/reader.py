"""Reading jobs and finished pictures from Python; `imagemill.open` is `open_mill`.

    with imagemill.open("out") as mill:
        table = polars.DataFrame(mill.images("latest", where="steps > 20"))

Everything is read in pages from one snapshot, so a set of any size can be walked through.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import PermissionDenied
from imagemill.db.queries.jobs import find_job
from imagemill.db.queries.reports import JobReport, list_jobs
from imagemill.db.read_only import SECONDS
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.images import Images, NewImages
from imagemill.rows import Rows
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.where import Condition

_MOST_JOBS = 1_000_000


def open_mill(place: str | os.PathLike[str] | None = None, **settings: Any) -> "Mill":
    """Open what `imagemill run --out PLACE` left there, or a database by its URL.

    Without a place, the settings say which (`IMAGEMILL_DATABASE_URL`, `imagemill.toml`);
    `settings` are values of them, `storage_url` for example.

    Raises:
        SchemaError: there is no database, or one of another version.
        SettingsError: a URL can't be read.
    """
    if place is None:
        found = Settings.load(**settings)
    elif "://" in str(place):
        found = Settings.load(database_url=str(place), **settings)
    else:
        found = Settings.for_home(Path(place), **settings)
    database = Database.from_settings(found)
    try:
        # A reader's role may read the views alone: then `query` works, whatever the version.
        with suppress(PermissionDenied):
            ensure_schema(database)
        return Mill.of(database, found)
    except BaseException:
        database.close()
        raise


class Mill:
    """Jobs and their pictures, for reading. A context manager, which closes the database."""

    def __init__(
        self, database: Database, storage: Storage, *, settings: Settings | None = None
    ) -> None:
        self._database = database
        self.storage = storage
        self._settings = settings

    @classmethod
    def of(cls, database: Database, settings: Settings) -> Self:
        """A database with the store that the settings name."""
        return cls(database, open_storage(settings), settings=settings)

    def again(self) -> Self:
        """The same database over a connection of its own, for another process."""
        if self._settings is None:
            raise TypeError("only a mill that imagemill.open made can go to another process")
        return self.of(Database.from_settings(self._settings), self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._settings is None:
            raise TypeError("only a mill that imagemill.open made can go to another process")
        return _opened_again, (self._settings,)

    def reading(self) -> AbstractContextManager[Session]:
        """A read-only transaction, for functions of `imagemill.db.queries`."""
        return self._database.reading()

    def query(self, query: str, *, seconds: float = SECONDS) -> Rows:
        """The rows that a SELECT of one's own gives: dictionaries, or an Arrow stream.

        It runs when the rows are read, each time anew, and may work `seconds` on 2,000 rows. Then
        it raises a `UsageError` if it is wrong, takes too long, or would do more than read.
        """
        return Rows(self._database, query, seconds=seconds)

    def jobs(self, *, limit: int = _MOST_JOBS) -> list[JobReport]:
        """Jobs with their counts, newest first."""
        with self._database.reading() as session:
            return list_jobs(session, limit=limit)

    def images(
        self,
        job: str | int = "latest",
        *,
        where: str | None = None,
        outcomes: Collection[Outcome | str] = (Outcome.OK,),
    ) -> Images:
        """The finished images of a job, by id; `where` is a condition as `export` takes.

        Raises:
            UnknownJob: no job has this id or name.
            UsageError: the condition can't be read; while reading, at the end: no image of the
                job has one of its names.
        """
        return Images(self, _selection([self._job_id(job)], where, outcomes))

    def new_images(
        self,
        since: str | None = None,
        *,
        job: str | int | None = None,
        where: str | None = None,
        outcomes: Collection[Outcome | str] = (Outcome.OK,),
    ) -> NewImages:
        """The images that became done since a cursor, of one job or of all; None gives all.

            new = mill.new_images(since=saved)
            for image in new:
                print(image["uri"])
            saved = new.cursor

        No order of commits hides an image from this. It comes again only if it was rendered again.

        Raises:
            UnknownJob: no job has this id or name.
            UsageError: the condition or the cursor can't be read; while reading, the cursor is of
                another database.
        """
        job_id = None if job is None else self._job_id(job)
        return NewImages(self, _selection([], where, outcomes), since=since, job_id=job_id)

    def _job_id(self, job: str | int) -> int:
        with self._database.reading() as session:
            return find_job(session, str(job)).id

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opened_again(settings: Settings) -> Mill:
    return Mill.of(Database.from_settings(settings), settings)


def _selection(
    jobs: Sequence[int], where: str | None, outcomes: Collection[Outcome | str]
) -> Selection:
    if where is not None:
        Condition(where)
    chosen = [Outcome(outcome) for outcome in outcomes]
    return Selection(jobs=jobs, outcomes=chosen, where=where)
