"""What an export says of an image: one list of columns, as JSON, as Parquet and as a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from imagemill.scheduler_jobs.exports.pictures import Picture
from imagemill.scheduler_jobs.exports.selection import ExportImage

_TIME = pa.timestamp("us", tz="UTC")

OWN: Mapping[str, pa.DataType] = MappingProxyType(
    {
        "image_id": pa.int64(),
        "job_id": pa.int64(),
        "job_name": pa.string(),
        "row_number": pa.int64(),
        "row_key": pa.string(),
        "sample_index": pa.int32(),
        "prompt": pa.string(),
        "negative_prompt": pa.string(),
        "seed": pa.uint64(),
        "model": pa.string(),
        "weights_digest": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "steps": pa.int32(),
        "guidance_scale": pa.float64(),
        "sampler": pa.string(),
        "format": pa.string(),
        "options": pa.string(),
        "outcome": pa.string(),
        "prompt_cut": pa.string(),
        "request_key": pa.string(),
        "object_key": pa.string(),
        "sha256": pa.string(),
        "source_sha256": pa.string(),
        "pixels_sha256": pa.string(),
        "environment": pa.string(),
        "composition": pa.string(),
        "seconds": pa.float64(),
        "created_at": _TIME,
        "error_code": pa.string(),
        "error_message": pa.string(),
    }
)
"""Our own columns. `width`, `height`, `format` and `sha256` are those of the exported file;
`source_sha256` is the stored file's, which can be rendered again."""

_LAYOUT = {"key", "status", "file_name", "text", "image"}
"""Columns that layouts add."""

_KINDS: Mapping[type, str] = MappingProxyType(
    {bool: "bool", int: "int", float: "float", str: "text"}
)


def extra_name(name: str) -> str:
    """A manifest's own column as exports call it: one of our names gets `extra_` before it."""
    return f"extra_{name}" if name in OWN or name in _LAYOUT else name


class ExtraKinds:
    """Which types the manifest's own columns hold, learnt from every row of the export.

    A column of whole numbers is int64, of numbers double, of truth values bool, of texts string;
    anything mixed or nested is JSON in a string. So all files of an export have one schema.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def add(self, extras: Mapping[str, Any]) -> None:
        """Note the columns of one row."""
        for name, value in extras.items():
            kinds = self._kinds.setdefault(name, set())
            if value is not None:
                kinds.add(_KINDS.get(type(value), "json"))

    @property
    def names(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self._kinds)

    def types(self) -> dict[str, pa.DataType]:
        """Parquet types by the manifest's names, sorted."""
        return {name: _extra_type(self._kinds[name]) for name in self.names}


def values_of(image: ExportImage, picture: Picture | None) -> dict[str, Any]:
    """All columns of an image and its exported file, ours and the manifest's own."""
    return _own_values(image, picture) | {
        extra_name(name): value for name, value in image.extras.items()
    }


def _own_values(image: ExportImage, picture: Picture | None) -> dict[str, Any]:
    """Our own columns; None where there is no picture."""
    values = {name: image.values.get(name) for name in OWN}
    values["source_sha256"] = image["sha256"]
    if picture is not None:
        values["width"], values["height"] = picture.width, picture.height
        values["format"] = "jpeg" if picture.suffix == "jpg" else picture.suffix
        values["sha256"] = picture.sha256
    return values


def document_of(image: ExportImage, picture: Picture | None) -> dict[str, Any]:
    """As `values_of`, as JSON: times are texts."""
    return {name: _json_value(value) for name, value in values_of(image, picture).items()}


def json_of(values: Mapping[str, Any] | Sequence[Any], *, sort_keys: bool = False) -> bytes:
    """Values as one line of ASCII JSON: times are texts."""
    return json.dumps(values, sort_keys=sort_keys, default=_json_value).encode()


def parquet_schema(extras: ExtraKinds, *, before: Sequence[pa.Field] = ()) -> pa.Schema:
    """The schema of an export: a layout's columns, ours, and the manifest's own."""
    return pa.schema(
        [
            *before,
            *(pa.field(name, kind) for name, kind in OWN.items()),
            *(pa.field(extra_name(name), kind) for name, kind in extras.types().items()),
        ]
    )


def parquet_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; what a column's type can't hold as it is becomes JSON."""
    listed = list(rows)
    columns = [_column([row.get(field.name) for row in listed], field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _extra_type(kinds: set[str]) -> pa.DataType:
    if kinds == {"int"}:
        return pa.int64()
    if kinds and kinds <= {"int", "float"}:
        return pa.float64()
    return pa.bool_() if kinds == {"bool"} else pa.string()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
        # Something in it is not as the type says. Only then each value is looked at.
        return pa.array([cell_of(value, kind) for value in values], kind)


def cell_of(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of this type holds it."""
    if value is None or isinstance(value, datetime):
        return value
    if pa.types.is_string(kind):
        # What no UTF-8 can hold (half of a pair of surrogates) is written as its escape.
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()
    if pa.types.is_int64(kind) and not -(2**63) <= value < 2**63:
        return None
    return float(value) if pa.types.is_float64(kind) else value


def _json_value(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
