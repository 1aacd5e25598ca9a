"""Pictures in Python: as mappings, as examples for training, and as Arrow for data frames.

polars.DataFrame(mill.images("latest"))
mill.images("latest").to_arrow().to_pandas()
datasets.Dataset.from_generator(mill.images("latest").examples)
torch.utils.data.DataLoader(mill.images("latest").torch(), num_workers=2, collate_fn=…)
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa
from sqlalchemy.orm import Session

from imagemill.db.errors import StorageError, UsageError
from imagemill.db.queries.pictures.finished_images import Cursor, finished_since
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.exports.columns import (
    ExtraKinds,
    cell_of,
    document_of,
    parquet_schema,
    parquet_table,
    values_of,
)
from imagemill.scheduler_jobs.exports.selection import (
    ExportImage,
    Selection,
    select_done,
    select_images,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from imagemill.torch_images import TorchImages

_BATCH_IMAGES = 2_000
_BATCH_PICTURES = 100
"""Images in a batch of Arrow; fewer where each has its file with it."""


class Place(Protocol):
    """Where images are: a database and a store, as `imagemill.reader.Mill` has them."""

    @property
    def storage(self) -> Storage:
        """The store of their files."""

    def reading(self) -> AbstractContextManager[Session]:
        """A read-only transaction, all of one moment."""

    def again(self) -> Self:
        """The same over a connection of its own, for another process."""


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


class Images:
    """Images that can be walked through as often as wanted, each time in a snapshot of its own.

    Everything that takes an Arrow stream takes them: polars, DuckDB, pyarrow.
    """

    def __init__(self, place: Place, selection: Selection) -> None:
        self._place = place
        self._selection = selection

    def __repr__(self) -> str:
        which = ", ".join(map(str, self._selection.jobs))
        where = "" if self._selection.where is None else f" where {self._selection.where}"
        outcomes = " or ".join(sorted(self._selection.outcomes))
        return f"<images of job {which} that are {outcomes}{where}>"

    def __iter__(self) -> Iterator[MillImage]:
        with self._place.reading() as session:
            for image in self._found(session):
                yield MillImage(image, self._place.storage)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The columns of each image as a dictionary; times are texts."""
        for image in self:
            yield dict(image)

    def examples(
        self, *, decode: bool = True, part: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, Any]]:
        """Each image's `image`, a PIL picture (RGB) or the file's bytes, and all its columns.

        Every example has the same columns with the same types, those of `to_arrow`. `part` is
        which share of how many, for readers beside each other.
        """
        which, count = part
        with self._place.reading() as session:
            schema = self._schema(session)
            for found in islice(self._found(session), which, None, count):
                image = MillImage(found, self._place.storage)
                values = self._values(found, pictures=False)
                cells = {each.name: cell_of(values.get(each.name), each.type) for each in schema}
                yield {"image": image.picture() if decode else image.bytes(), **cells}

    def dataset(self) -> "Dataset":
        """A `datasets.Dataset` of all columns and pictures, whose files are in memory.

        For more than fits, give `examples` to its `from_generator`, which has no room for seeds
        from 2**63.
        """
        from datasets import Dataset, Image  # noqa: PLC0415  # not everybody has it

        return Dataset(self.to_arrow(pictures=True)).cast_column("image", Image())

    def torch(self, *, decode: bool = True) -> "TorchImages":
        """A `torch.utils.data.IterableDataset` of `examples`, shared by a loader's workers."""
        from imagemill.torch_images import TorchImages  # noqa: PLC0415  # it imports torch

        return TorchImages(self, decode=decode)

    def to_arrow(self, *, pictures: bool = False) -> pa.Table:
        """All columns as one Arrow table; with `pictures` also the files' bytes, in `image`."""
        return self._reader(pictures=pictures).read_all()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The columns as an Arrow stream: the interface of data frames to each other."""
        return self._reader(pictures=False).__arrow_c_stream__(requested_schema)

    def elsewhere(self) -> "Images":
        """The same images for another process, over a connection of its own."""
        return type(self)(self._place.again(), self._selection)

    def _found(self, session: Session) -> Iterator[ExportImage]:
        return select_images(session, self._selection)

    def _reader(self, *, pictures: bool) -> pa.RecordBatchReader:
        stream = self._batches(pictures=pictures)
        return pa.RecordBatchReader.from_batches(next(stream), stream)

    def _batches(self, *, pictures: bool) -> Iterator[Any]:
        """The schema, then the batches: columns of manifests get their types from all rows."""
        with self._place.reading() as session:
            schema = self._schema(session)
            if pictures:
                schema = schema.append(pa.field("image", pa.binary()))
            yield schema
            found = self._found(session)
            size = _BATCH_PICTURES if pictures else _BATCH_IMAGES
            while page := [self._values(image, pictures=pictures) for image in islice(found, size)]:
                yield from parquet_table(page, schema).to_batches()

    def _schema(self, session: Session) -> pa.Schema:
        kinds = ExtraKinds()
        for image in self._found(session):
            kinds.add(image.extras)
        return parquet_schema(kinds).append(pa.field("uri", pa.string()))

    def _values(self, image: ExportImage, *, pictures: bool) -> dict[str, Any]:
        storage = self._place.storage
        more: dict[str, Any] = {"uri": storage.object_uri(image["object_key"])}
        if pictures:
            more["image"] = MillImage(image, storage).bytes()
        return values_of(image, None) | more

    def _repr_html_(self) -> str:
        from imagemill.notebook import pictures_html  # noqa: PLC0415  # for notebooks

        return pictures_html(self)


class NewImages(Images):
    """The images that became done since a cursor; `cursor` is that for the next time.

    They come in the order in which they were done. On Postgres an image comes once every older
    transaction that writes on the server is over, so that none is ever passed by.
    """

    def __init__(
        self,
        place: Place,
        selection: Selection,
        *,
        since: str | None = None,
        job_id: int | None = None,
    ) -> None:
        super().__init__(place, selection)
        self._since = None if since is None else Cursor.read(since)
        self._job_id = job_id
        self._next: Cursor | None = None

    @property
    def cursor(self) -> str:
        """Where to go on. Raises `UsageError` until all images were read."""
        if self._next is None:
            raise UsageError("the cursor is known once all images were read")
        return str(self._next)

    def elsewhere(self) -> "Images":
        """Not possible: the cursor would stay there."""
        raise UsageError("new images are read in one process, which gets the cursor")

    def _found(self, session: Session) -> Iterator[ExportImage]:
        cursor, pages = finished_since(session, self._since, job_id=self._job_id)
        for page in pages:
            images = {
                image["image_id"]: image for image in select_done(session, page, self._selection)
            }
            yield from (images[image_id] for image_id in page if image_id in images)
        self._next = cursor
