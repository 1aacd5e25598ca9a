"""Reading jobs and finished pictures from Python; `imagemill.open` is `open_mill`.

    with imagemill.open("out") as mill:
        table = polars.DataFrame(mill.images("latest", where="steps > 20"))

Everything is read in pages from one snapshot, so a set of any size can be walked through.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import PermissionDenied, SchemaError
from imagemill.db.given_settings import ENVIRONMENT_FILE, read_environment
from imagemill.db.queries.fleet.reports import JobReport, list_jobs
from imagemill.db.queries.jobs.lifecycle import find_job
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
    """Open a folder of `imagemill run --out PLACE` or `imagemill --home PLACE up`, or a URL.

    A URL is that of a database. Without a place, the settings say which
    (`IMAGEMILL_DATABASE_URL`, `imagemill.toml`); `settings` are values of them, `storage_url` for
    example.

    Raises:
        SchemaError: there is no database, or one of another version.
        SettingsError: a URL can't be read, or a stack's file of passwords.
    """
    keys = None
    if place is None:
        found = Settings.load(**settings)
    elif "://" in str(place):
        found = Settings.load(database_url=str(place), **settings)
    elif ((folder := _folder(place)) / ENVIRONMENT_FILE).is_file():
        found, keys = _of_stack(folder, settings)
    else:
        found = Settings.for_home(folder, **settings)
    database = Database.from_settings(found)
    try:
        # A reader's role may read the views alone: then `query` works, whatever the version.
        with suppress(PermissionDenied):
            ensure_schema(database)
        return Mill.of(database, found, keys=keys)
    except BaseException:
        database.close()
        raise


def _folder(place: str | os.PathLike[str]) -> Path:
    """The folder at this path. Raises `SchemaError` if there is none."""
    if not os.fspath(place) or not Path(place).is_dir():
        raise SchemaError(
            f"{os.fspath(place)!r} is no folder; name that of `imagemill run --out` or "
            "`imagemill --home … up`, or the URL of a database"
        )
    return Path(place)


_Keys = tuple[str, str]
"""An S3 access key and its secret."""


def _of_stack(home: Path, settings: Mapping[str, Any]) -> tuple[Settings, _Keys | None]:
    """The settings of a stack's home, and the keys of its store.

    They stay in the mill: a program may have keys of its own for another store in its environment.
    """
    variables = read_environment(home / ENVIRONMENT_FILE)
    named = {name: variables.get(f"IMAGEMILL_{name.upper()}") for name in Settings.model_fields}
    known = {name: value for name, value in named.items() if value is not None}
    found = Settings.load(**{**known, **settings})
    access_key = variables.get("AWS_ACCESS_KEY_ID")
    secret = variables.get("AWS_SECRET_ACCESS_KEY")
    if "storage_url" in settings or access_key is None or secret is None:
        return found, None
    return found, (access_key, secret)


class Mill:
    """Jobs and their pictures, for reading. A context manager, which closes the database."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        *,
        settings: Settings | None = None,
        keys: _Keys | None = None,
    ) -> None:
        self._database = database
        self.storage = storage
        self._settings = settings
        self._keys = keys

    @classmethod
    def of(cls, database: Database, settings: Settings, *, keys: _Keys | None = None) -> Self:
        """A database with the store that the settings name; `keys` as `open_storage` has them."""
        storage = open_storage(settings, keys=keys)
        return cls(database, storage, settings=settings, keys=keys)

    def __repr__(self) -> str:
        return f"<mill of {self._database.url}>"

    def again(self) -> Self:
        """The same database over a connection of its own, for another process."""
        if self._settings is None:
            raise TypeError("only a mill that imagemill.open made can go to another process")
        return self.of(Database.from_settings(self._settings), self._settings, keys=self._keys)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._settings is None:
            raise TypeError("only a mill that imagemill.open made can go to another process")
        return _opened_again, (self._settings, self._keys)

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


def _opened_again(settings: Settings, keys: _Keys | None) -> Mill:
    return Mill.of(Database.from_settings(settings), settings, keys=keys)


def _selection(
    jobs: Sequence[int], where: str | None, outcomes: Collection[Outcome | str]
) -> Selection:
    if where is not None:
        Condition(where)
    chosen = [Outcome(outcome) for outcome in outcomes]
    return Selection(jobs=jobs, outcomes=chosen, where=where)
