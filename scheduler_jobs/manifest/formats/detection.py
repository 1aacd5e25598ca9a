"""Finds a manifest's format by its name and its first bytes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

from imagemill.scheduler_jobs.manifest.columns.fields import PROMPT
from imagemill.scheduler_jobs.manifest.columns.layout import field_of
from imagemill.scheduler_jobs.manifest.formats import magics
from imagemill.scheduler_jobs.manifest.formats.dialects import (
    DELIMITERS,
    cells_of,
    has_prompt,
    separator,
)
from imagemill.scheduler_jobs.manifest.formats.downloads import check_is_the_file
from imagemill.scheduler_jobs.manifest.formats.json_shapes import json_format, looks_like_json
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.sources.compression import SUFFIXES as COMPRESSED
from imagemill.scheduler_jobs.manifest.sources.compression import compression_of

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow", "xlsx", "toml", "text"]

FORMATS: tuple[Format, ...] = get_args(Format)

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
        ".arrow": "arrow",
        ".feather": "arrow",
        ".xlsx": "xlsx",
        ".xlsm": "xlsx",
        ".toml": "toml",
        ".txt": "text",
        ".text": "text",
    }
)

_MAGIC: Mapping[bytes, Format] = MappingProxyType(
    {
        magics.PARQUET: "parquet",
        magics.ARROW_FILE: "arrow",
        magics.ARROW_STREAM: "arrow",
        magics.WORKBOOK: "xlsx",
    }
)
"""Formats that are known by their first bytes, whatever their name."""

_OTHER_MAGIC: Mapping[bytes, str] = MappingProxyType(
    {
        b"\xd0\xcf\x11\xe0": "an old Excel workbook",
        b"\x89PNG": "a PNG picture",
        b"\xff\xd8\xff": "a JPEG picture",
        b"%PDF": "a PDF file",
        b"SQLite format 3\x00": "an SQLite database",
    }
)


def detect(
    head: bytes, suffixes: Sequence[str], *, mapping: Mapping[str, str], wanted: str | None
) -> Format:
    """The format of a file with these first (unpacked) bytes and these suffixes.

    `wanted` is the value of `--format`. A file that is no text is known by its first bytes,
    whatever its name. If the content contradicts the suffix, the content decides: JSON under any
    name, or a table in a text file. Without a suffix (standard input), content that looks like
    nothing else is text.

    Raises:
        Broken: the format is not supported.
    """
    if wanted is not None and wanted not in FORMATS:
        raise Broken(f"unknown format {shown(wanted)}", f"one of {', '.join(FORMATS)}")
    if (kind := _by_magic(head)) is not None:
        return kind
    named = [suffix for suffix in suffixes if suffix not in COMPRESSED][-1:]
    found: Format | None = None
    if wanted is not None:
        found = next(name for name in FORMATS if name == wanted)
    elif named:
        found = SUFFIXES.get(named[0])
    text = _text(head)
    if wanted is None:
        check_is_the_file(text)
    if wanted is None and looks_like_json(text):
        return json_format(text, lines=found == "jsonl")
    if found == "json":
        # `--format json`: an array, or an object that stands for one; or lines.
        return json_format(text)
    if wanted is not None and found is not None:
        return found
    if found is None or found == "text":
        looks = _by_content(text, mapping, sure=found is not None)
        if found is None and looks == "text" and named and not _is_suffix_of_a_name(named[0]):
            raise Broken(
                f"unknown format {shown(named[0])}",
                f"{', '.join(SUFFIXES)}, also with {', '.join(COMPRESSED)}, or --format",
            )
        return looks
    return found


def _by_magic(head: bytes) -> Format | None:
    """What a file is that is no text, by its first bytes."""
    for magic, what in _OTHER_MAGIC.items():
        if head.startswith(magic):
            raise Broken(what, f"{', '.join(FORMATS)}, also compressed")
    if (packed := compression_of(head)) is not None:
        raise Broken(f"{packed} inside a compressed file", "a file compressed once")
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _by_content(text: str, mapping: Mapping[str, str], *, sure: bool) -> Format:
    """The format by content: a table or text. With `sure`, a line of prose is no header."""
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()][:2]
    if not lines:
        return "text"
    if separator(lines[0]) is not None:
        return "csv"
    if sure and len(lines) > 1 and field_of(lines[0].strip('"')) == PROMPT:
        raise Broken(
            f"the first line is {shown(lines[0])}: a table's header, or a prompt",
            "--format csv or --format text",
            line=1,
        )
    for delimiter in DELIMITERS:
        cells = cells_of(lines[0], delimiter)
        if not has_prompt(cells, mapping, least=2 if sure or delimiter != "," else 1):
            continue
        if sure and delimiter != "\t" and not _is_header(cells, lines[1:], delimiter):
            continue
        return "tsv" if delimiter == "\t" else "csv"
    return "text"


def _is_header(cells: Sequence[str], following: Sequence[str], delimiter: str) -> bool:
    """Whether the cells are a header: they have names of fields, and rows follow."""
    known = sum(field_of(cell) is not None for cell in cells)
    rows = all(line.count(delimiter) >= len(cells) - 1 for line in following)
    return PROMPT in map(field_of, cells) and (known > 1 or len(cells) == 2) and rows


def _text(head: bytes) -> str:
    return head.decode("utf-8", errors="replace").lstrip("\ufeff")


def _is_suffix_of_a_name(suffix: str) -> bool:
    # The suffixes of "prompts.v2" and "drawbench.2024-05" are not formats.
    return any(c.isdigit() for c in suffix)
