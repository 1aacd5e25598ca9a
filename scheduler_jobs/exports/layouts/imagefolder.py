"""`imagefolder`: a folder a split, with `metadata.parquet` beside the pictures.

`datasets.load_dataset("imagefolder", data_dir=…)` reads it: `file_name` names the picture, `text`
is its prompt, the other columns follow. Parquet rather than JSON Lines, because the types of the
columns must be the same in every split, also where a column is empty in one of them.
Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

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
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures

NAME = "{row_number:06}-{sample_index:03}"

_FIRST = (pa.field("file_name", pa.string()), pa.field("text", pa.string()))
_GROUP_ROWS = 5000


def contents(plan: ExportPlan) -> Contents:
    """Pictures in folders, and a table in each."""
    schema = parquet_schema(plan.extras, before=_FIRST)
    return Contents(
        table=Table(files="*/metadata.parquet", media_type=PARQUET, schema=schema), pictures="*/*"
    )


def write(export: Export) -> None:
    """Write the pictures of each split, then its metadata."""
    schema = parquet_schema(export.plan.extras, before=_FIRST)
    for split in export.split_names:
        folder = split or "train"
        with (
            export.target.create(f"{folder}/metadata.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for rows in batched(_rows(export, split, folder), _GROUP_ROWS):
                writer.write_table(parquet_table(rows, schema))


def _rows(export: Export, split: str, folder: str) -> Iterator[dict[str, Any]]:
    images = export.images(split)
    for image, name, picture in write_pictures(export, images, export.stem_in(folder)):
        yield {
            "file_name": name.removeprefix(f"{folder}/"),
            "text": image["prompt"],
            **values_of(image, picture),
        }
