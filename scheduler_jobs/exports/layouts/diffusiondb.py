"""`diffusiondb`: parts of 1,000 pictures with a JSON file each, and `metadata.parquet`.

The 13 columns of DiffusionDB, its codes for samplers, its names: a UUID, made here of the image's
request and id, so that the same image has the same name in every export.
Source: https://huggingface.co/datasets/poloclub/diffusiondb
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.columns import parquet_table
from imagemill.scheduler_jobs.exports.contents import JSON, PARQUET, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan, batched
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures
from imagemill.scheduler_jobs.exports.selection import ExportImage

PART_SIZE = 1000

_SAMPLERS: Mapping[str, int] = MappingProxyType(
    {
        "ddim": 1,
        "pndm": 2,
        "euler": 3,
        "euler_a": 4,
        "heun": 5,
        "kdpm2": 6,
        "kdpm2_a": 7,
        "lms": 8,
    }
)
_OTHER_SAMPLER = 9

_SCHEMA = pa.schema(
    [
        ("image_name", pa.string()),
        ("prompt", pa.string()),
        ("part_id", pa.uint16()),
        ("seed", pa.uint32()),
        ("step", pa.uint16()),
        ("cfg", pa.float32()),
        ("sampler", pa.uint8()),
        ("width", pa.uint16()),
        ("height", pa.uint16()),
        ("user_name", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("image_nsfw", pa.float32()),
        ("prompt_nsfw", pa.float32()),
    ]
)
_USER = hashlib.sha256(b"imagemill").hexdigest()
"""DiffusionDB names users by a hash; nobody's name is given away here."""


def checked(images: Iterator[ExportImage]) -> Iterator[ExportImage]:
    """The images; a `UsageError` for what DiffusionDB's columns can't hold."""
    for place, image in enumerate(images):
        if image["seed"] >= 1 << 32 or place >= PART_SIZE * ((1 << 16) - 1):
            raise UsageError(
                f"diffusiondb: image {image['image_id']} has the seed {image['seed']}; its columns "
                f"hold seeds below {1 << 32}, and {(1 << 16) - 1} parts"
            )
        yield image


def contents(_plan: ExportPlan) -> Contents:
    """Parts with pictures, and the table of all."""
    return Contents(
        table=Table(files="metadata.parquet", media_type=PARQUET, schema=_SCHEMA),
        pictures="images/*/*",
        others={"images/*/*.json": JSON},
    )


def write(export: Export) -> None:
    """Write the parts, then the table of them all."""
    with (
        export.target.create("metadata.parquet") as file,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd") as table,
    ):
        for part, images in enumerate(batched(export.images(), PART_SIZE), 1):
            table.write_table(parquet_table(_write_part(export, part, images), _SCHEMA))


def _write_part(export: Export, part: int, images: list[ExportImage]) -> list[dict[str, Any]]:
    folder = f"images/part-{part:06}"
    rows, prompts = [], {}
    for image, path, picture in write_pictures(
        export, images, lambda image: f"{folder}/{_uuid(image)}"
    ):
        name = path.removeprefix(f"{folder}/")
        row = {
            "image_name": name,
            "prompt": image["prompt"],
            "part_id": part,
            "seed": image["seed"],
            "step": image["steps"],
            "cfg": image["guidance_scale"],
            "sampler": _SAMPLERS.get(image["sampler"], _OTHER_SAMPLER),
            "width": picture.width,
            "height": picture.height,
            "user_name": _USER,
            "timestamp": image["created_at"].replace(
                microsecond=image["created_at"].microsecond // 1000 * 1000
            ),
        }
        rows.append(row)
        prompts[name] = {
            "p": image["prompt"],
            "se": image["seed"],
            "c": image["guidance_scale"],
            "st": image["steps"],
            "sa": image["sampler"],
        }
    export.target.write(f"{folder}/part-{part:06}.json", json.dumps(prompts, indent=2).encode())
    return rows


def _uuid(image: ExportImage) -> uuid.UUID:
    text = f"{image['request_key']}\0{image['image_id']}"
    return uuid.UUID(hashlib.sha256(text.encode()).hexdigest()[:32], version=4)
