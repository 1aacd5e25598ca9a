"""Which format a manifest is in: by its name, else by how it begins."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from imagemill.scheduler_jobs.manifest import parquet
from imagemill.scheduler_jobs.manifest.columns import PROMPT, PROMPT_FALLBACKS, field_of
from imagemill.scheduler_jobs.manifest.foreign_names import folded
from imagemill.scheduler_jobs.manifest.lines import GZIP_MAGIC
from imagemill.scheduler_jobs.manifest.problems import Broken, shown

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "text"]

FORMATS: tuple[Format, ...] = ("csv", "tsv", "jsonl", "json", "parquet", "text")

SUFFIXES: Mapping[str, Format] = MappingProxyType(
    {
        ".csv": "csv",
        ".tsv": "tsv",
        ".tab": "tsv",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "json",
        ".parquet": "parquet",
        ".pq": "parquet",
        ".txt": "text",
        ".text": "text",
    }
)

_OTHER_MAGIC: Mapping[bytes, str] = MappingProxyType(
    {
        b"PK\x03\x04": "a zip archive or an Excel workbook",
        b"\xd0\xcf\x11\xe0": "an old Excel workbook",
        b"BZh": "a bzip2 file",
        b"\xfd7zXZ\x00": "an xz file",
        b"\x28\xb5\x2f\xfd": "a zstd file",
        b"\x89PNG": "a PNG picture",
        b"\xff\xd8\xff": "a JPEG picture",
        b"%PDF": "a PDF file",
        b"ARROW1": "an Arrow (Feather) file",
        b"SQLite format 3\x00": "an SQLite database",
    }
)
_ARRAY = re.compile(r"\s*\[\s*[{\]]")
_OBJECT = re.compile(r'\s*\{\s*["}]')


def detect(
    head: bytes, suffixes: Sequence[str], *, mapping: Mapping[str, str], wanted: str | None
) -> Format:
    """The format of a file with these first (unpacked) bytes and these suffixes.

    `wanted` is what `--format` says. Parquet is known by its first bytes whatever its name;
    `.json` may hold an array or lines. Without a suffix (standard input, say) the content
    decides, and what looks like nothing else is text.

    Raises:
        Broken: not a format that is read here.
    """
    if wanted is not None and wanted not in FORMATS:
        raise Broken(f"unknown format {shown(wanted)}", f"one of {', '.join(FORMATS)}")
    for magic, what in _OTHER_MAGIC.items():
        if head.startswith(magic):
            raise Broken(what, f"{', '.join(FORMATS)}, also gzipped")
    if head.startswith(GZIP_MAGIC):
        raise Broken("gzip inside gzip", "a file gzipped once")
    if head.startswith(parquet.MAGIC):
        return "parquet"
    named = [suffix for suffix in suffixes if suffix not in {".gz", ".gzip"}][-1:]
    found: Format | None = None
    if wanted is not None:
        found = next(name for name in FORMATS if name == wanted)
    elif named:
        found = SUFFIXES.get(named[0])
    if found == "json" and not _text(head).lstrip().startswith("["):
        return "jsonl"
    if found is not None:
        return found
    looks = _by_content(_text(head), mapping)
    if looks == "text" and named and not _is_suffix_of_a_name(named[0]):
        raise Broken(
            f"unknown format {shown(named[0])}",
            f"{', '.join(SUFFIXES)}, also with .gz, or --format",
        )
    return looks


def _by_content(text: str, mapping: Mapping[str, str]) -> Format:
    if _ARRAY.match(text):
        return "json"
    if _OBJECT.match(text):
        return "jsonl"
    header = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    if "\t" in header and _has_prompt(header.split("\t"), mapping):
        return "tsv"
    if _has_prompt([cell.strip('"') for cell in header.split(",")], mapping):
        return "csv"
    return "text"


def _has_prompt(cells: Sequence[str], mapping: Mapping[str, str]) -> bool:
    if any(mapping.get(cell) == PROMPT or field_of(cell) == PROMPT for cell in cells):
        return True
    return len(cells) > 1 and any(folded(cell) in PROMPT_FALLBACKS for cell in cells)


def _text(head: bytes) -> str:
    return head.decode("utf-8-sig", errors="replace")


def _is_suffix_of_a_name(suffix: str) -> bool:
    # "prompts.v2" or "drawbench.2024-05" have no suffix that means a format.
    return any(c.isdigit() for c in suffix)
