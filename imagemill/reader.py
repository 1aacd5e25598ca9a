"""Reading jobs and finished pictures from Python; `imagemill.open` is `open_mill`.

    pandas.DataFrame(mill.images("latest").rows())
    torch.utils.data.DataLoader(list(mill.images("latest")), collate_fn=…)

Everything is read in pages from one snapshot, so a set of any size can be walked through.
"""

import hashlib
import io
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import StorageError
from imagemill.db.queries.jobs import find_job
from imagemill.db.queries.reports import JobReport, list_jobs
from imagemill.db.read_only import SECONDS, answering
from imagemill.db.schema import check_schema
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.exports.columns import document_of
from imagemill.scheduler_jobs.exports.selection import ExportImage, Selection, select_images
from imagemill.scheduler_jobs.exports.where import Condition
from imagemill.scheduler_jobs.reading.cells import check_names

if TYPE_CHECKING:
    from PIL import Image

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
        check_schema(database)
        return Mill.of(database, found)
    except BaseException:
        database.close()
        raise


class Mill:
    """Jobs and their pictures, for reading. A context manager, which closes the database."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    @classmethod
    def of(cls, database: Database, settings: Settings) -> Self:
        """A database with the store that the settings name."""
        return cls(database, open_storage(settings))

    def reading(self) -> AbstractContextManager[Session]:
        """A read-only transaction, for functions of `imagemill.db.queries`."""
        return self._database.reading()

    def query(self, query: str, *, seconds: float = SECONDS) -> Iterator[dict[str, Any]]:
        """The rows that a SELECT of one's own gives, as dictionaries; the database only reads.

        Raises:
            UsageError: the query is wrong, takes too long, or would do more than read.
        """
        with answering(self._database, query, seconds=seconds) as answer:
            check_names(answer.columns)
            for row in answer.rows:
                yield dict(zip(answer.columns, row, strict=True))

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
    ) -> "MillImages":
        """The finished images of a job, by id; `where` is a condition as `export` takes.

        Raises:
            UnknownJob: no job has this id or name.
            UsageError: the condition can't be read.
        """
        if where is not None:
            Condition(where)
        with self._database.reading() as session:
            job_id = find_job(session, str(job)).id
        chosen = [Outcome(outcome) for outcome in outcomes]
        return MillImages(
            self._database, self._storage, Selection(jobs=[job_id], outcomes=chosen, where=where)
        )

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


class MillImages:
    """Images of a job: iterate as often as wanted, each time over a snapshot of its own."""

    def __init__(self, database: Database, storage: Storage, selection: Selection) -> None:
        self._database = database
        self._storage = storage
        self._selection = selection

    def __iter__(self) -> Iterator["MillImage"]:
        with self._database.reading() as session:
            for image in select_images(session, self._selection):
                yield MillImage(image, self._storage)

    def _repr_html_(self) -> str:
        from imagemill.notebook import pictures_html  # noqa: PLC0415  # for notebooks

        return pictures_html(self)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The columns of each image as a dictionary: what a DataFrame is made of."""
        for image in self:
            yield dict(image)


class MillImage(Mapping[str, Any]):
    """One picture: a mapping of all its columns, the manifest's own included, and its file."""

    def __init__(self, image: ExportImage, storage: Storage) -> None:
        self._columns = document_of(image, None) | {"uri": storage.object_uri(image["object_key"])}
        self._storage = storage

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"<image {self['image_id']}: {self['prompt'][:60]!r}>"

    def _repr_html_(self) -> str:
        from imagemill.notebook import pictures_html  # noqa: PLC0415  # for notebooks

        return pictures_html([self])

    def bytes(self) -> bytes:
        """The whole file. A `StorageError` if it is missing, or not the recorded one."""
        body = self._storage.get(self["object_key"])
        if hashlib.sha256(body).hexdigest() != self["sha256"]:
            raise StorageError(f"image {self['image_id']}: {self['uri']} is damaged")
        return body

    def picture(self) -> "Image.Image":
        """The picture, decoded, height x width x 3 as RGB."""
        from PIL import Image  # noqa: PLC0415  # whoever reads columns alone needs no decoder

        with Image.open(io.BytesIO(self.bytes())) as opened:
            return opened.convert("RGB")
