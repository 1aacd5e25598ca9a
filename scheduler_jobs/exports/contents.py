"""What a layout says of its files, for those who read an export by its description alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

PARQUET = "application/x-parquet"
JSON = "application/json"
JSON_LINES = "application/jsonlines"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Files whose rows are the records: a pattern of their names, and their columns.

    `json_paths` says where the columns of a JSON document are found; other files have them by
    name. A column `image` of `parquet` holds the pictures themselves.
    """

    files: str
    media_type: str
    schema: pa.Schema
    json_paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The files of a layout. In patterns, `*` also stands for folders.

    `pictures` is the pattern of single pictures without its suffix, None where they lie in other
    files; `others` has further files with their media types.
    """

    table: Table | None = None
    pictures: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
