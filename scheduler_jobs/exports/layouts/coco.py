"""`coco`: pictures by number, with `annotations/captions.json` as COCO's own caption files.

An image is numbered by its row's id where all ids are whole numbers and each row has one picture,
as those of COCO-30k have; else from 1 on.
Source: https://cocodataset.org/#format-data (section 5, image captioning).
"""

import json
import shutil
import tempfile
from collections.abc import Iterator

import pyarrow as pa

from imagemill.scheduler_jobs.exports.contents import JSON, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures
from imagemill.scheduler_jobs.exports.selection import ExportImage

_INFO = {"description": "rendered by imagemill", "version": "1.0"}
_MOST_ID = 10**12
"""Ids have twelve digits in COCO's file names."""


def contents(_plan: ExportPlan) -> Contents:
    """Pictures, and their captions in the same order."""
    columns = {
        "image_id": (pa.int64(), "$.images[*].id"),
        "file_name": (pa.string(), "$.images[*].file_name"),
        "width": (pa.int32(), "$.images[*].width"),
        "height": (pa.int32(), "$.images[*].height"),
        "caption": (pa.string(), "$.annotations[*].caption"),
    }
    table = Table(
        files="annotations/*.json",
        media_type=JSON,
        schema=pa.schema([(name, kind) for name, (kind, _) in columns.items()]),
        json_paths={name: path for name, (_, path) in columns.items()},
    )
    return Contents(table=table, pictures="*/*")


def write(export: Export) -> None:
    """Write the pictures of each split, then its captions."""
    own_ids = _have_own_ids(export)
    first = 1
    for split in export.split_names:
        folder = split or "images"
        numbers = _Numbers(folder, own_ids=own_ids, first=first)
        # Both lists of the file come from one pass; the captions wait in a file of their own.
        with (
            export.target.create(f"annotations/captions{'_' if split else ''}{split}.json") as file,
            tempfile.TemporaryFile() as captions,
        ):
            file.write(json.dumps({"info": _INFO, "licenses": []})[:-1].encode())
            file.write(b', "images": [')
            comma = b""
            images = numbers.noted(export.images(split))
            for image, path, picture in write_pictures(export, images, numbers.stem):
                number = numbers.take(image)
                entry = {
                    "id": number,
                    "file_name": path.removeprefix(f"{folder}/"),
                    "width": picture.width,
                    "height": picture.height,
                }
                caption = {"id": first, "image_id": number, "caption": image["prompt"]}
                file.write(comma + json.dumps(entry).encode())
                captions.write(comma + json.dumps(caption).encode())
                comma = b", "
                first += 1
            file.write(b'], "annotations": [')
            captions.seek(0)
            shutil.copyfileobj(captions, file)
            file.write(b"]}")


class _Numbers:
    """The number of each image, for as long as it is being written."""

    def __init__(self, folder: str, *, own_ids: bool, first: int) -> None:
        self._folder = folder
        self._own_ids = own_ids
        self._next = first
        self._numbers: dict[int, int] = {}

    def noted(self, images: Iterator[ExportImage]) -> Iterator[ExportImage]:
        """The images, each numbered as it passes."""
        for image in images:
            number = int(image["row_key"]) if self._own_ids else self._next
            self._numbers[image["image_id"]] = number
            self._next += 1
            yield image

    def stem(self, image: ExportImage) -> str:
        """The name of the image's file without its suffix."""
        return f"{self._folder}/{self._numbers[image['image_id']]:012}"

    def take(self, image: ExportImage) -> int:
        """The image's number, which nobody asks for again."""
        return self._numbers.pop(image["image_id"])


def _have_own_ids(export: Export) -> bool:
    seen = set()
    for image in export.images():
        key = str(image["row_key"] or "")
        if not (key.isascii() and key.isdecimal()) or int(key) >= _MOST_ID or int(key) in seen:
            return False
        seen.add(int(key))
    return True
