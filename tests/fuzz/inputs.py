"""Hostile manifests: by the grammar of each format, then damaged byte by byte.

Everything is drawn from one `random.Random`, so a seed and a number name a file for good.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.scheduler_jobs.manifest.fields import FIELDS

MOST_ROWS = 60

WORDS = (
    "a red circle", "cat", "{a|b}", "{1..5}", "{2::x|y}", "__mood__", "__../secret__", "__a/b__",
    "{" * 30, "}" * 30, "{a|{b|{c|d}}}", "{1..999999999}", "\\{", "(x:1.5)", "[y]", "((", "AND",
    "\x1b[31m", "\u202e", "\u2066", "\0", "\r", "\n", "\u2028", "\ud800", "\U0010ffff", "é", "日本",
    "--ar 16:9", "<lora:x:0.8>", "(a:1.3)", "## x", "#x", "${c=red} ${c}", "-n4 -S7", "positive: x",
    "----", "_x000D_", "=1+1", "@SUM(A1)", "'; DROP TABLE images; --", "<script>", "%s%n",
    "${jndi:x}", "--", "--n",
    "--prompt", '"', "'", "`id`", "$(id)", "\ufeff", "e\u0301" * 40, "👩‍👩‍👧", "x" * 3000, " ", "",
)  # fmt: skip
PLACES = (
    "../../../../etc/passwd", "/etc/passwd", "inside.png", "link.png", "http://127.0.0.1/x.png",
    "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "s3://other/key", "a\0b",
    "\\\\host\\share", "~/.ssh/id_rsa", "%2e%2e/x", "." * 5000, "/dev/zero", "/proc/self/mem",
    "f" * 64,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 8, 20, 64, 512, 1000, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**40),
    0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 7.5, 20.0, True, False, None,
    "20", " 20 ", "2e1", "1e999", "0x10", "٣", "1_000", "-0", "NaN", "Infinity", "9" * 5000, "½",
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
PIECES = (
    b'"', b",", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xfe\xff", b"[", b"]", b"{", b"}",
    b"\\", b" --", b"NaN", b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1", b"9" * 400, b"\xed\xa0\x80",
    b"\xf0\x9f", b"'", b"prompt", b"[" * 3000, b"a" * 9000, b'{"a":' * 1500, b"\\ud800", b":",
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
        body = _damaged(rng, body)
    suffix = rng.choice(SUFFIXES[kind])
    if rng.random() < 0.1:
        packing = rng.choice(tuple(PACKERS))
        body, suffix = PACKERS[packing](body), f"{suffix}{packing}"
        if rng.random() < 0.3:
            whole, body = False, _damaged(rng, body)
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
            row[column] = rng.choice((_text, _place, _number, _list, _choice))(rng)
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


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))


def _place(rng: random.Random) -> str:
    return rng.choice(PLACES)


def _number(rng: random.Random) -> Any:
    return rng.choice(NUMBERS)


def _list(rng: random.Random) -> Any:
    return rng.choice(LISTS)


def _choice(rng: random.Random) -> str:
    return rng.choice(CHOICES)


def _damaged(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randrange(6):
            case 0:
                del data[at : at + rng.randint(1, 60)]
            case 1:
                data[at:at] = rng.choice(PIECES)
            case 2:
                data[at : at + 8] = rng.randbytes(8)
            case 3:
                del data[max(at, len(data) // 2) :]
            case 4:
                data[at:at] = data[max(0, at - 200) : at]
            case 5:
                data[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(data)


def _delimited(delimiter: str) -> Callable[[random.Random, list[dict[str, Any]]], bytes]:
    def write(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
        out = io.StringIO()
        quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
        writer.writerow(rows[0] if rows else ["prompt"])
        for row in rows:
            writer.writerow(["" if value is None else _cell(value) for value in row.values()])
        return out.getvalue().encode("utf-8", "surrogatepass")

    return write


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json_lines(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    ascii_only = rng.random() < 0.5
    lines = (json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _json_array(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    text = json.dumps(rows, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _json_keyed(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    document = {f"k{n}": {k: v for k, v in row.items() if k != "id"} for n, row in enumerate(rows)}
    text = json.dumps(document, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _json_texts(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    texts = [row["prompt"] for row in rows]
    return json.dumps(texts, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _batch(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for n, row in enumerate(rows):
        body = {**row, rng.choice(("n", "x")): rng.randint(1, 3)}
        lines.append({"custom_id": f"r{n}", "method": "POST", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns of one type each, as Arrow has them: what does not fit becomes text."""
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ["prompt"]:
        values = [row[name] for row in rows]
        try:
            column = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            texts = [None if value is None else _cell(value) for value in values]
            column = pa.array([t and t.encode("utf-8", "replace").decode() for t in texts])
        columns[name.encode("utf-8", "replace").decode()] = column
    return columns


def _arrow(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    table = pa.table(_columns(rows))
    options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, "lz4", "zstd")))
    make = rng.choice((pa.ipc.new_stream, pa.ipc.new_file))
    sink = pa.BufferOutputStream()
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rng.choice((1, 7, 1000)))
    return bytes(sink.getvalue().to_pybytes())


def _workbook(rng: random.Random, rows: list[dict[str, Any]], *, damaged: bool = False) -> bytes:
    """A workbook; damage to its bytes is found by their checksums, damage to a sheet is not."""
    lines = [list(rows[0]) if rows else ["prompt"], *(list(row.values()) for row in rows)]
    cells = "".join(f"<row>{''.join(map(_xml_cell, line))}</row>" for line in lines)
    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{cells}</sheetData></worksheet>'.encode()
    if damaged:
        sheet = _damaged(rng, sheet)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in {**_WORKBOOK_PARTS, "xl/worksheets/sheet1.xml": sheet}.items():
            archive.writestr(zipfile.ZipInfo(name), body)
    return buffer.getvalue()


def _xml_cell(value: Any) -> str:
    """A cell as Excel has it: numbers are floats, and what XML can't hold is left out."""
    if value is None:
        return "<c/>"
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float) and abs(value) < 2**53:
        return f"<c><v>{value}</v></c>"
    return f'<c t="inlineStr"><is><t>{escape(in_xml(_cell(value)))}</t></is></c>'


def in_xml(text: str) -> str:
    """A text without the characters that XML can't hold."""
    kept = (c for c in text if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff"))
    return "".join(c for c in kept if c not in "\ufffe\uffff")


def _blocks(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    blocks = []
    for row in rows:
        lines = [f"positive: {row['prompt']}", f"negative: {_text(rng)}"]
        blocks.append("\n".join(lines if rng.random() < 0.7 else lines[::-1]))
    return "\n----\n".join(blocks).encode("utf-8", "surrogatepass")


def _switches(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for row in rows:
        names = rng.sample("nsCWHSAmfIq", k=rng.randint(0, 4))
        words = [f"-{name}{rng.choice((20, 64, 'k_euler', *NUMBERS[:6]))}" for name in names]
        lines.append(" ".join([str(row["prompt"]), *words]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _parquet(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    columns = _columns(rows)
    sink = pa.BufferOutputStream()
    compression = rng.choice(("snappy", "gzip", "none"))
    pq.write_table(pa.table(columns), sink, compression=compression)
    return sink.getvalue().to_pybytes()


def _flags(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for row in rows:
        words = [f'--prompt "{row["prompt"]}"' if rng.random() < 0.7 else _text(rng)]
        for name, value in row.items():
            if name != "prompt" and value is not None:
                words.append(f"--{name} {_cell(value)}")
        lines.append(" ".join(words))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _inline(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for row in rows:
        flags = rng.sample(("n", "w", "h", "s", "d", "l", "t", "z"), k=rng.randint(0, 3))
        values = (20, 64, *NUMBERS[:6], *WORDS[:6])
        words = [str(row["prompt"]), *(f"--{flag} {rng.choice(values)}" for flag in flags)]
        lines.append(" ".join(words))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _noise(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    del rows
    return rng.randbytes(rng.randint(0, 2000))


ORACLE_KINDS = frozenset(
    ("csv", "tsv", "jsonl", "json", "keyed", "batch", "parquet", "arrow", "xlsx")
)
"""Kinds that write each of a row's values."""

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_WORKBOOK_PARTS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/>'
        "</Types>"
    ).encode(),
    "_rels/.rels": (
        f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ).encode(),
    "xl/workbook.xml": (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="a" sheetId="1" r:id="rId1"/></sheets></workbook>'
    ).encode(),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ).encode(),
}

WRITERS: Mapping[str, Callable[[random.Random, list[dict[str, Any]]], bytes]] = MappingProxyType(
    {
        "csv": _delimited(","),
        "tsv": _delimited("\t"),
        "jsonl": _json_lines,
        "json": _json_array,
        "keyed": _json_keyed,
        "texts": _json_texts,
        "batch": _batch,
        "parquet": _parquet,
        "arrow": _arrow,
        "xlsx": _workbook,
        "sheet": partial(_workbook, damaged=True),
        "blocks": _blocks,
        "switches": _switches,
        "folder": _switches,
        "flags": _flags,
        "inline": _inline,
        "noise": _noise,
    }
)
SUFFIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "csv": (".csv",),
        "tsv": (".tsv", ".tab"),
        "jsonl": (".jsonl", ".ndjson"),
        "json": (".json",),
        "keyed": (".json",),
        "texts": (".json", ".txt"),
        "batch": (".jsonl",),
        "arrow": (".arrow", ".feather"),
        "xlsx": (".xlsx",),
        "sheet": (".xlsx",),
        "blocks": (".txt",),
        "switches": (".txt",),
        "folder": ("",),
        "parquet": (".parquet", ".pq"),
        "flags": (".txt",),
        "inline": (".txt",),
        "noise": (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt"),
    }
)
