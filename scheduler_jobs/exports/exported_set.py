"""Reading an export again: its records with their pictures, in its order, as a stream."""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.db.errors import UsageError, system_reason
from imagemill.db.process.owned_folder import temporary_folder
from imagemill.db.real_paths import real_path
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.exports.columns import OWN
from imagemill.scheduler_jobs.exports.record import RECORD
from imagemill.scheduler_jobs.exports.target import Target, open_target

NEEDED = tuple(name for name in OWN if name not in ("error_code", "error_message", "composition"))
"""The columns without which an image could be neither found nor rendered again."""

_PAGE = 200
"""Records that are held at once, with their pictures."""

_LAYOUT = frozenset({"image", "text", "file_name", "key", "status"})

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedImage:
    """A record of an export, by `OWN`; the manifest's other columns; and the file's bytes."""

    values: Record
    extras: Record
    body: bytes


@contextmanager
def export_folder(place: str, settings: Settings) -> Iterator[Path]:
    """The folder of an export; of one in a bucket a copy, which is gone after the block.

    A copy needs room for the whole export where temporary files are (`TMPDIR`). A `UsageError` of
    the block names the place as it was given.
    """
    if "://" not in place:
        yield Path(place).expanduser()
        return
    target = open_target(place, settings, option="EXPORT")
    with temporary_folder("imagemill-import-") as temporary:
        folder = real_path(temporary)
        try:
            _copy(target, RECORD, folder)
            read_record(folder)  # before anything large is copied
            for name in sorted(target.names() - {RECORD, ""}):
                _copy(target, name, folder)
            yield folder
        except UsageError as error:
            raise UsageError(error.message.replace(str(folder), target.uri)) from None


def _copy(target: Target, name: str, folder: Path) -> None:
    place = real_path(folder / name)
    # A name from a bucket that others may have written must not lead out of the folder.
    if not place.is_relative_to(folder) or (name == RECORD and target.read(name) is None):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        for chunk in target.chunks(name):
            file.write(chunk)


def exported_images(folder: Path) -> Iterator[ExportedImage]:
    """Every image of the complete export in this folder; the same order every time.

    Raises `UsageError` if there is none, if a file of it can't be read, if its layout does not
    carry enough, or if its tables have other images than so many as its record says.
    """
    document = read_record(folder)
    layout = _LAYOUTS[document["format"]]
    found = 0
    for file in sorted(folder.glob(layout.tables)):
        try:
            for image in _images_of(file, layout):
                found += 1
                yield image
        except (OSError, pa.ArrowException, tarfile.TarError) as error:
            raise UsageError(f"{file}: can't be read: {system_reason(error)}") from None
    if found != document.get("images"):
        raise UsageError(
            f"{folder}: its tables have {found:,} images, and its record says "
            f"{document.get('images')!r}; it is not as it was exported"
        )


def _images_of(file: Path, layout: "_Layout") -> Iterator[ExportedImage]:
    with pq.ParquetFile(file) as table:
        _check(file, table.schema_arrow, layout)
        for batch in table.iter_batches(_PAGE):
            yield from layout.read(file, batch)


def read_record(folder: Path) -> dict[str, Any]:
    """What an export says of itself. Raises `UsageError` for one that can't be imported."""
    try:
        document = json.loads((folder / RECORD).read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{folder}: holds no export; there is no {RECORD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / RECORD}: can't be read: {system_reason(error)}") from None
    if not isinstance(document, dict) or not document.get("complete"):
        raise UsageError(f"{folder}: the export is not complete; run the same export again")
    if document.get("format") not in _LAYOUTS:
        raise UsageError(
            f"{folder}: a set in the layout {document.get('format')} does not carry everything; "
            f"import one of {', '.join(sorted(_LAYOUTS))}"
        )
    return document


def _check(file: Path, schema: pa.Schema, layout: "_Layout") -> None:
    missing = [name for name in (*NEEDED, *layout.columns) if name not in schema.names]
    if missing:
        raise UsageError(f"{file}: lacks the columns {', '.join(missing)}; it can't be imported")


def _from_parquet(file: Path, batch: pa.RecordBatch) -> Iterator[ExportedImage]:
    for row in batch.to_pylist():
        cell = row["image"]
        body = cell.get("bytes") if isinstance(cell, dict) else None
        if not isinstance(body, bytes):
            raise UsageError(f"{file}: image {row['image_id']} has no bytes")
        yield _image(row, body)


def _from_folder(file: Path, batch: pa.RecordBatch) -> Iterator[ExportedImage]:
    for row in batch.to_pylist():
        # A name from a file that others may have written must not lead out of the folder.
        picture = real_path(file.parent / str(row["file_name"]))
        if not picture.is_relative_to(real_path(file.parent)) or not picture.is_file():
            raise UsageError(f"{file}: there is no picture {row['file_name']!r}")
        yield _image(row, picture.read_bytes())


def _from_shard(file: Path, batch: pa.RecordBatch) -> Iterator[ExportedImage]:
    with tarfile.open(file.with_suffix(".tar")) as tar:
        for row in batch.to_pylist():
            if row["status"] != "success":
                continue  # an image that could not be rendered
            suffix = "jpg" if row["format"] == "jpeg" else row["format"]
            try:
                member = tar.extractfile(f"{row['key']}.{suffix}")
            except KeyError:
                member = None
            if member is None:
                raise UsageError(f"{file}: its shard has no picture {row['key']}.{suffix}")
            yield _image(row, member.read())


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a layout's tables are, how the pictures are found, and by which columns of its own."""

    tables: str
    read: Callable[[Path, pa.RecordBatch], Iterator[ExportedImage]]
    columns: tuple[str, ...]


_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {
        "parquet": _Layout("data/*.parquet", _from_parquet, ("image",)),
        "imagefolder": _Layout("*/metadata.parquet", _from_folder, ("file_name",)),
        "webdataset": _Layout("**/*.parquet", _from_shard, ("key", "status")),
    }
)
"""Layouts with complete records."""


def _image(row: dict[str, Any], body: bytes) -> ExportedImage:
    extras = {name: value for name, value in row.items() if name not in OWN and name not in _LAYOUT}
    return ExportedImage(values={name: row.get(name) for name in OWN}, extras=extras, body=body)
