"""Hostile manifests: by the grammar of each format, then damaged byte by byte.

Everything is drawn from one `random.Random`, so a seed and a number name a file for good.
"""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from imagemill.scheduler_jobs.manifest.columns.fields import FIELDS
from tests.fuzz.damage import NUMBERS, damage, hostile_text
from tests.fuzz.writers import ORACLE_KINDS, SUFFIXES, WRITERS

MOST_ROWS = 60

PLACES = (
    "../../../../etc/passwd", "/etc/passwd", "inside.png", "link.png", "http://127.0.0.1/x.png",
    "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "s3://other/key", "a\0b",
    "\\\\host\\share", "~/.ssh/id_rsa", "%2e%2e/x", "." * 5000, "/dev/zero", "/proc/self/mem",
    "f" * 64,
)  # fmt: skip
LISTS = (
    [], [1, 2, 3], "1,2,3", "1;2", [1.5], [[1]], {"a": 1}, [None], list(range(2000)), "a", "[1,",
    [{"name": "x", "weight": 1}], {"eta": 0.5}, {"__class__": "os"}, '{"eta": 1e999}', "x:0.5",
)  # fmt: skip
CHOICES = (
    "ddim", "euler_a", "DPM++ 2M Karras", "shapes64", "no such", "png", "JPEG", "webp", "exe",
    "512x512", "0x0", "99999x99999", "chunk", "truncate", "yes", "no", "../shapes64",
)  # fmt: skip
COLUMNS = (
    *FIELDS, "Prompt", "PROMPT ", "caption", "text", "include", "tag", "", " ", "prompt", "prompt",
    "prompt", "__proto__", "x" * 300, "\x1b[2J", "'; --", "prompt\0", "image_id", "seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzedFile:
    """A manifest's bytes and how it is to be read.

    `files` are what a folder holds, by name, where the manifest is a folder. `rows` are what was
    written, by the mark in their column `MARK`, where nothing of it was damaged.
    """

    kind: str
    suffix: str
    body: bytes
    format: str | None
    columns: Mapping[str, str]
    variants: str
    grid: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


MARK = "oracle"
"""A column whose value tells which of the written rows a row is."""

PACKERS: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        ".gz": lambda body: gzip.compress(body, 1, mtime=0),
        ".bz2": bz2.compress,
        ".xz": lambda body: lzma.compress(body, preset=0),
        ".zst": lambda body: pa.Codec("zstd").compress(body, asbytes=True),
    }
)


def fuzzed_file(rng: random.Random) -> FuzzedFile:
    """One file, of a format and a way to read it by chance."""
    kind = rng.choice(tuple(WRITERS))
    rows = _rows(rng)
    body = WRITERS[kind](rng, rows)
    whole = rng.random() < 0.5
    if not whole:
        body = damage(rng, body)
    suffix = rng.choice(SUFFIXES[kind])
    if rng.random() < 0.1:
        packing = rng.choice(tuple(PACKERS))
        body, suffix = PACKERS[packing](body), f"{suffix}{packing}"
        if rng.random() < 0.3:
            whole, body = False, damage(rng, body)
    files: dict[str, bytes] = {}
    if kind == "folder":
        # Cut anywhere: each piece is a prompt, whatever it holds.
        cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.randint(0, 8)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        files = {f"{rng.choice(('a', 'é', 'x y', '#'))}{n}.txt": p for n, p in enumerate(pieces)}
    return FuzzedFile(
        kind=kind,
        suffix=suffix if rng.random() < 0.9 else "",
        body=body,
        format=rng.choice(
            ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "xlsx", "text", "exe")
        )
        if rng.random() < 0.1
        else None,
        columns={rng.choice(COLUMNS): rng.choice(COLUMNS)} if rng.random() < 0.1 else {},
        variants=rng.choice(("off", "off", "all", "sample")),
        grid=(rng.choice(("steps=1,2", "seed=1,2,3", "guidance_scale=1,5")),)
        if rng.random() < 0.1
        else (),
        files=files,
        rows={row[MARK]: row for row in rows} if whole and kind in ORACLE_KINDS else {},
    )


def _rows(rng: random.Random) -> list[dict[str, Any]]:
    """Rows of one table: mostly sound ones, so that what is behind the reader is reached too."""
    columns = ["prompt", *rng.choices(COLUMNS, k=rng.randint(0, 6))]
    rng.shuffle(columns)
    hostile = rng.choice((0.02, 0.1, 0.5))
    rows = [_row(rng, columns, hostile) for _ in range(rng.randint(0, MOST_ROWS))]
    return [{**row, MARK: f"m{n}"} for n, row in enumerate(rows)]


def _row(rng: random.Random, columns: list[str], hostile: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in columns:
        if rng.random() < hostile:
            row[column] = rng.choice((hostile_text, _place, _number, _list, _choice))(rng)
        else:
            row[column] = _sound(rng, column)
    return row


def _sound(rng: random.Random, column: str) -> Any:
    match column:
        case "prompt":
            return f"a {rng.choice(('red', 'blue'))} circle {rng.randrange(1000)}"
        case "width" | "height":
            return rng.choice((64, 128))
        case "steps" | "step":
            return rng.randint(1, 50)
        case "seed":
            return rng.randrange(2**32)
        case "init_image" | "mask":
            return "inside.png"
        case "sampler":
            return "ddim"
        case _:
            return None


def _place(rng: random.Random) -> str:
    return rng.choice(PLACES)


def _number(rng: random.Random) -> Any:
    return rng.choice(NUMBERS)


def _list(rng: random.Random) -> Any:
    return rng.choice(LISTS)


def _choice(rng: random.Random) -> str:
    return rng.choice(CHOICES)
