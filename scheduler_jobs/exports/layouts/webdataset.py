"""`webdataset`: tar shards in the shape of img2dataset.

A shard `00000.tar` holds `{key}.png`, `{key}.txt` (the prompt) and `{key}.json` (all columns) for
each image; `00000.parquet` has a row an image, also for those that could not be rendered, and
`00000_stats.json` counts them. A key is the shard's number and the place in it.
Source: https://github.com/rom1504/img2dataset (writer.py, logger.py).
"""

import json
import tarfile
from collections import Counter
from datetime import datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.scheduler_jobs.exports.columns import (
    json_of,
    parquet_schema,
    parquet_table,
    values_of,
)
from imagemill.scheduler_jobs.exports.contents import JSON, PARQUET, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan, batched
from imagemill.scheduler_jobs.exports.pictures import Picture
from imagemill.scheduler_jobs.exports.selection import ExportImage

SHARD_SIZE = 10_000
SHARD_DIGITS = 5

_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
"""A member's header without a name and of no bytes."""

_OWNER, _TIME, _REST = _EMPTY[100:124], _EMPTY[135:148], _EMPTY[154:]
"""What lies between its name, its size and its sum."""

_EMPTY_SUM = int(_EMPTY[148:154], 8) - 11 * ord("0")
"""The sum of its bytes without those of the size."""

_KEY_COLUMNS = (
    pa.field("key", pa.string()),
    pa.field("status", pa.string()),
)


def contents(plan: ExportPlan) -> Contents:
    """Shards of pictures, and a table beside each."""
    schema = parquet_schema(plan.extras, before=_KEY_COLUMNS)
    return Contents(
        table=Table(files="*.parquet", media_type=PARQUET, schema=schema),
        others={"*.tar": "application/x-tar", "*_stats.json": JSON},
    )


def write(export: Export) -> None:
    """Write every shard that is not there yet."""
    for split in export.split_names:
        folder = f"{split}/" if split else ""
        for number, images in enumerate(batched(export.images(split), export.shard_size)):
            shard = f"{folder}{number:0{SHARD_DIGITS}}"
            if {f"{shard}.tar", f"{shard}.parquet", f"{shard}_stats.json"} <= export.present:
                export.advance(sum(image.done for image in images))
            else:
                _write_shard(export, shard, images)


def _write_shard(export: Export, shard: str, images: list[ExportImage]) -> None:
    number = shard.rpartition("/")[2]
    digits = max(4, len(str(export.shard_size - 1)))
    rows = []
    with export.target.create(f"{shard}.tar") as file:
        for place, (image, picture) in enumerate(export.pictures(images)):
            key = f"{number}{place:0{digits}}"
            row = _row(key, image, picture)
            if picture is not None:
                _write_members(file, key, row, picture)
                export.advance()
            rows.append(row)
        # An archive ends with two empty blocks and is filled up to a whole record.
        end = 2 * tarfile.BLOCKSIZE
        file.write(bytes(end + -(file.tell() + end) % tarfile.RECORDSIZE))
    with export.target.create(f"{shard}.parquet") as file:
        schema = parquet_schema(export.plan.extras, before=_KEY_COLUMNS)
        pq.write_table(parquet_table(rows, schema), file, compression="zstd")
    export.target.write(f"{shard}_stats.json", _stats(images))


def _write_members(file: BinaryIO, key: str, row: dict[str, Any], picture: Picture) -> None:
    """The members of one image; all share the key, which is how readers put them together."""
    members = {
        picture.suffix: picture.body,
        "txt": row["prompt"].encode("utf-8", "surrogatepass"),
        "json": json_of(row),
    }
    for suffix, body in members.items():
        file.write(_header(f"{key}.{suffix}", len(body)))
        file.write(body)
        file.write(bytes(-len(body) % tarfile.BLOCKSIZE))


def _header(name: str, size: int) -> bytes:
    """A member's header, byte for byte as `TarInfo.tobuf` makes it with `USTAR_FORMAT`.

    That takes 40 microseconds, more than all else that is done for a small picture. Only the name
    (short and ASCII here), the size and the sum of all bytes differ between members.
    """
    named, sized = name.encode("ascii"), b"%011o" % size
    total = _EMPTY_SUM + sum(named) + sum(sized)
    return b"".join((named.ljust(100, b"\0"), _OWNER, sized, _TIME, b"%06o" % total, _REST))


def _row(key: str, image: ExportImage, picture: Picture | None) -> dict[str, Any]:
    status = "failed_to_render" if picture is None else "success"
    return {"key": key, "status": status, **values_of(image, picture)}


def _stats(images: list[ExportImage]) -> bytes:
    """img2dataset's counts. Its times are those of the rendering: ours would differ every time."""
    times: list[datetime] = [image["created_at"] for image in images if image.done]
    statuses = Counter("success" if image.done else str(image["error_code"]) for image in images)
    stats = {
        "count": len(images),
        "successes": statuses["success"],
        "failed_to_download": len(images) - statuses["success"],
        "failed_to_resize": 0,
        "start_time": min(times).timestamp() if times else None,
        "end_time": max(times).timestamp() if times else None,
        "duration": (max(times) - min(times)).total_seconds() if times else 0.0,
        "status_dict": dict(sorted(statuses.items())),
    }
    return json.dumps(stats, indent=2).encode()
