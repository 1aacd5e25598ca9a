"""The manifest formats, each written from rows by its grammar."""

import csv
import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.damage import NUMBERS, WORDS, damage, hostile_text


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
        sheet = damage(rng, sheet)
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
        lines = [f"positive: {row['prompt']}", f"negative: {hostile_text(rng)}"]
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
        words = [f'--prompt "{row["prompt"]}"' if rng.random() < 0.7 else hostile_text(rng)]
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
