"""`flat`: the pictures by name, with `metadata.csv` and `metadata.jsonl` beside them."""

import csv
import json
from typing import Any, BinaryIO

import pyarrow as pa

from imagemill.scheduler_jobs.exports.columns import (
    OWN,
    document_of,
    extra_name,
    parquet_schema,
)
from imagemill.scheduler_jobs.exports.contents import JSON_LINES, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures

NAME = "{row_number:06}-{sample_index:03}"

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula.
Source: https://owasp.org/www-community/attacks/CSV_Injection"""


def contents(plan: ExportPlan) -> Contents:
    """Pictures, and what is said of them twice."""
    first = (pa.field("file_name", pa.string()),)
    schema = parquet_schema(plan.extras, before=first)
    return Contents(
        table=Table(files="*metadata.jsonl", media_type=JSON_LINES, schema=schema),
        pictures="*",
        others={"*metadata.csv": "text/csv"},
    )


def write(export: Export) -> None:
    """Write the pictures of each split, then its metadata."""
    columns = ["file_name", *OWN, *map(extra_name, export.plan.extras.names)]
    for split in export.split_names:
        folder = f"{split}/" if split else ""
        with (
            export.target.create(f"{folder}metadata.csv") as table,
            export.target.create(f"{folder}metadata.jsonl") as lines,
        ):
            rows = csv.DictWriter(_Text(table), columns, restval="")
            rows.writeheader()
            images = export.images(split)
            for image, name, picture in write_pictures(export, images, export.stem_in(split)):
                document = {
                    "file_name": name.removeprefix(folder),
                    **document_of(image, picture),
                }
                lines.write(json.dumps(document).encode() + b"\n")
                rows.writerow(
                    {key: _cell(value, export.options.formulas) for key, value in document.items()}
                )


class _Text:
    """A file of bytes to which a csv writer can write.

    It keeps nothing back: after an error, `TextIOWrapper` would try to write the rest once more.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write a row, with what UTF-8 can't hold escaped."""
        self._file.write(text.encode("utf-8", "backslashreplace"))


def _cell(value: Any, formulas: bool) -> Any:
    """A cell of the table. A text that looks like a formula gets a `'` before it."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str) and value.startswith(_FORMULA) and not formulas:
        return f"'{value}"
    return value
