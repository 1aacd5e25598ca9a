"""`croissant.json`: the export as Croissant metadata, which data-set search and loaders read.

Two record sets: `images`, the rows of the layout's table, and `pictures`, the single picture
files. Nothing in it depends on when the export ran.
Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (version 1.0)
"""

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from imagemill.scheduler_jobs.exports.contents import PARQUET, Contents, Table
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan

CROISSANT = "croissant.json"

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{name: {"@id": f"cr:{name}", "@type": "@json"} for name in ("data", "examples")},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "conformsTo": "dct:conformsTo",
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject"),
            *("fileProperty", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key"),
            *("md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
            *("replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
}
"""The specification's own, word by word: readers warn of any other."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_PICTURES = MappingProxyType({"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"})


def write_croissant(export: Export, document: Mapping[str, Any], contents: Contents) -> None:
    """Write the metadata of an export whose files are all there."""
    body = json.dumps(_dataset(export.plan, document, contents), indent=2, ensure_ascii=False)
    export.target.write(CROISSANT, body.encode("utf-8", "backslashreplace") + b"\n")


def _dataset(plan: ExportPlan, document: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    licenses = sorted({str(model["license"]) for model in document["models"] if model["license"]})
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"imagemill-{document['digest'][:12]}",
        "description": (
            f"{document['images']:,} images that text-to-image models rendered from prompts; "
            "made by a machine, with imagemill."
        ),
        "keywords": ["synthetic", "text-to-image", "imagemill"],
        "version": "1.0.0",
    }
    if plan.newest is not None:
        described["datePublished"] = plan.newest.date().isoformat()
    if licenses and all(model["license"] for model in document["models"]):
        described["license"] = licenses
    described["distribution"] = list(_distribution(plan, contents))
    described["recordSet"] = list(_record_sets(contents))
    return described


def _distribution(plan: ExportPlan, contents: Contents) -> Iterator[dict[str, Any]]:
    if contents.table is not None:
        yield _file_set("tables", [contents.table.files], [contents.table.media_type])
    if contents.pictures is not None:
        suffixes = sorted(plan.suffixes)
        patterns = [f"{contents.pictures}.{suffix}" for suffix in suffixes]
        yield _file_set("picture-files", patterns, [_PICTURES[suffix] for suffix in suffixes])
    for number, (pattern, media_type) in enumerate(contents.others.items(), 1):
        yield _file_set(f"other-files-{number}", [pattern], [media_type])


def _file_set(name: str, includes: list[str], media_types: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": media_types if len(media_types) > 1 else media_types[0],
        "includes": includes if len(includes) > 1 else includes[0],
    }


def _record_sets(contents: Contents) -> Iterator[dict[str, Any]]:
    if contents.table is not None:
        names = _Names()
        columns = [_column(contents.table, names.of(f.name), f) for f in contents.table.schema]
        yield _record_set("images", columns)
    if contents.pictures is not None:
        properties = {"path": ("sc:Text", "fullpath"), "image": ("sc:ImageObject", "content")}
        yield _record_set(
            "pictures",
            [
                _field("pictures", name, kind, "picture-files", {"fileProperty": found})
                for name, (kind, found) in properties.items()
            ],
        )


def _record_set(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


class _Names:
    """Names for columns that identifiers may have; a manifest's own columns have any."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, column: str) -> str:
        name = base = _NOT_IN_NAMES.sub("_", column) or "_"
        number = 2
        while name in self._given:
            name, number = f"{base}_{number}", number + 1
        self._given.add(name)
        return name


def _column(table: Table, name: str, column: pa.Field) -> dict[str, Any]:
    path = table.json_paths.get(column.name)
    extract = {"column": column.name} if path is None else {"jsonPath": path}
    field = _field("images", name, _data_type(column.type), "tables", extract)
    if pa.types.is_struct(column.type) and table.media_type == PARQUET:
        field["source"]["transform"] = {"jsonPath": "bytes"}
    return field


def _field(
    record_set: str, name: str, data_type: str, file_set: str, extract: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": f"{record_set}/{name}",
        "dataType": data_type,
        "source": {"fileSet": {"@id": file_set}, "extract": dict(extract)},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "sc:ImageObject"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:DateTime" if pa.types.is_timestamp(kind) else "sc:Text"
