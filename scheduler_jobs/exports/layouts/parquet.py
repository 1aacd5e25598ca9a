"""`parquet`: the pictures inside Parquet files, as the Hugging Face Hub keeps image data sets.

`data/train-00000-of-00005.parquet`: `image` is a struct of `bytes` and `path`, and the schema
names the features, so that `datasets` decodes it without a script.
Source: https://huggingface.co/docs/datasets/image_dataset (`push_to_hub`'s files).
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.scheduler_jobs.exports.columns import (
    parquet_schema,
    parquet_table,
    values_of,
)
from imagemill.scheduler_jobs.exports.contents import PARQUET, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan, batched
from imagemill.scheduler_jobs.exports.selection import ExportImage

SHARD_SIZE = 1000

_IMAGE = (
    pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    pa.field("text", pa.string()),
)
_GROUP_BYTES = 64 << 20
"""Pictures held at once; also the size of a row group, which readers take whole."""


def contents(plan: ExportPlan) -> Contents:
    """Tables with the pictures inside."""
    schema = parquet_schema(plan.extras, before=_IMAGE)
    return Contents(table=Table(files="data/*.parquet", media_type=PARQUET, schema=schema))


def write(export: Export) -> None:
    """Write every file that is not there yet."""
    schema = _with_features(parquet_schema(export.plan.extras, before=_IMAGE))
    for split in export.split_names:
        total = export.plan.splits[split] if split else export.plan.images
        files = -(-total // export.shard_size)
        for number, images in enumerate(batched(export.images(split), export.shard_size)):
            name = f"data/{split or 'train'}-{number:05}-of-{files:05}.parquet"
            if name in export.present:
                export.advance(len(images))
                continue
            with (
                export.target.create(name) as file,
                pq.ParquetWriter(file, schema, compression="zstd") as writer,
            ):
                for rows in _groups(export, images):
                    writer.write_table(parquet_table(rows, schema))


def _groups(export: Export, images: list[ExportImage]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    held = 0
    for image, picture in export.pictures(images):
        assert picture is not None  # this format takes done images only
        file = {"bytes": picture.body, "path": f"{image['image_id']}.{picture.suffix}"}
        rows.append({"image": file, "text": image["prompt"], **values_of(image, picture)})
        held += len(picture.body)
        export.advance()
        if held >= _GROUP_BYTES:
            yield rows
            rows, held = [], 0
    if rows:
        yield rows


def _with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with `datasets`' own description of it, in which a struct is an image."""
    features = {
        field.name: {"_type": "Image"}
        if field.name == "image"
        else {"dtype": _feature(field.type), "_type": "Value"}
        for field in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))
