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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.scheduler_jobs.exports.columns import (
    json_of,
    parquet_schema,
    parquet_table,
    values_of,
)
from imagemill.scheduler_jobs.exports.contents import JSON, PARQUET, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, Plan, batched
from imagemill.scheduler_jobs.exports.pictures import Picture
from imagemill.scheduler_jobs.exports.selection import ExportImage

SHARD_SIZE = 10_000
SHARD_DIGITS = 5

_KEY_COLUMNS = (
    pa.field("key", pa.string()),
    pa.field("status", pa.string()),
)


def contents(plan: Plan) -> Contents:
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
                file.write(_members(key, row, picture))
                export.advance()
            rows.append(row)
        # An archive ends with two empty blocks and is filled up to a whole record.
        end = 2 * tarfile.BLOCKSIZE
        file.write(bytes(end + -(file.tell() + end) % tarfile.RECORDSIZE))
    with export.target.create(f"{shard}.parquet") as file:
        schema = parquet_schema(export.plan.extras, before=_KEY_COLUMNS)
        pq.write_table(parquet_table(rows, schema), file, compression="zstd")
    export.target.write(f"{shard}_stats.json", _stats(images))


def _members(key: str, row: dict[str, Any], picture: Picture) -> bytes:
    """The members of one image; all share the key, which is how readers put them together.

    They are put together here and written in one go: `TarFile.addfile` writes five times for a
    member, which took a third of the time of small pictures.
    """
    members = {
        picture.suffix: picture.body,
        "txt": row["prompt"].encode("utf-8", "surrogatepass"),
        "json": json_of(row),
    }
    pieces = []
    for suffix, body in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(body)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        pieces += [header, body, bytes(-len(body) % tarfile.BLOCKSIZE)]
    return b"".join(pieces)


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
