"""The same rows in every format, and what is particular to each."""

import bz2
import datetime
import decimal
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagemill.scheduler_jobs.manifest import ManifestRow
from tests.unit.manifests import good_rows, problems

ROWS: list[dict[str, Any]] = [
    {"id": "cat", "prompt": "a cat, sitting", "steps": 20, "guidance_scale": 7.5, "note": "x"},
    {"id": "dog", "prompt": 'a "good" dog', "steps": 30, "guidance_scale": 1.0, "note": ""},
    {"id": "ox", "prompt": "ein Öchslein 🐂", "steps": 40, "guidance_scale": 0.0, "note": "z"},
]


def as_csv() -> bytes:
    lines = [",".join(ROWS[0])]
    lines += [
        ",".join('"' + str(cell).replace('"', '""') + '"' for cell in row.values()) for row in ROWS
    ]
    return "\n".join(lines).encode()


def as_tsv() -> bytes:
    lines = ["\t".join(ROWS[0])] + ["\t".join(map(str, row.values())) for row in ROWS]
    return ("\r\n".join(lines) + "\r\n").encode()


def as_jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n\n" for row in ROWS).encode()


def as_json() -> bytes:
    return json.dumps(ROWS, indent=2, ensure_ascii=False).encode()


def as_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


WRITERS = {
    "csv": as_csv,
    "tsv": as_tsv,
    "jsonl": as_jsonl,
    "json": as_json,
    "parquet": as_parquet,
}


def file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def seen(row: ManifestRow) -> dict[str, Any]:
    settings = row.parameters.settings()
    return {"id": row.key, "prompt": row.prompt, **settings, **row.extras}


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed


PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("named", [True, False], ids=["by name", "by content"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows(
    kind: str, named: bool, packed: str, tmp_path: Path
) -> None:
    content = WRITERS[kind]()
    name = f"rows.{kind}{packed}" if named else "rows"
    path = file(tmp_path, name, PACKERS[packed](content))
    rows = good_rows(path)
    assert [seen(row) for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("suffix", [each for each in PACKERS if each])
def test_a_compressed_file_is_known_by_its_bytes_with_and_without_the_suffix(
    tmp_path: Path, suffix: str
) -> None:
    pack, content = PACKERS[suffix], as_csv()
    # Tools that compress in parallel write one stream after another.
    body = pack(content[:20]) + pack(content[20:]) + pack(b"")
    for name in (f"rows.csv{suffix}", "rows.csv", f"rows{suffix}"):
        assert len(good_rows(file(tmp_path, name, body))) == 3


def test_xz_may_be_padded_with_zeros(tmp_path: Path) -> None:
    assert len(good_rows(file(tmp_path, "rows.csv.xz", lzma.compress(as_csv()) + bytes(8)))) == 3


@pytest.mark.parametrize("inner", [".gz", ".zst"])
def test_a_file_is_compressed_once(tmp_path: Path, inner: str) -> None:
    name = {".gz": "gzip", ".zst": "zstd"}[inner]
    path = file(tmp_path, "rows.csv.xz", lzma.compress(PACKERS[inner](as_csv())))
    assert problems(path) == [
        f"rows.csv.xz: {name} inside a compressed file; a file compressed once"
    ]


def test_the_wanted_format_overrides_the_name(tmp_path: Path) -> None:
    path = file(tmp_path, "rows.log", as_jsonl())
    assert len(good_rows(path, format="jsonl")) == 3
    assert problems(path, format="xml")[0].startswith('rows.log: unknown format "xml"; one of csv,')


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ("[a|b] cat\n", ["[a|b] cat"]),
        ("{a|b} cat\n", ["{a|b} cat"]),
        ("prompt\na cat\n", ["a cat"]),
        ("a cat\na dog, a bird\n", ["a cat", "a dog, a bird"]),
        ("text\ncaption\n", ["text", "caption"]),
        ("\ufeff[\n{}]".replace("{}", '{"prompt": "a cat"}'), ["a cat"]),
    ],
)
def test_content_without_a_name_is_known_by_how_it_begins(
    content: str, prompts: list[str], tmp_path: Path
) -> None:
    assert [row.prompt for row in good_rows(file(tmp_path, "rows", content))] == prompts


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "text"])
def test_a_byte_order_mark_and_crlf_change_nothing(kind: str, tmp_path: Path) -> None:
    content = WRITERS[kind]() if kind != "text" else b"a cat\na dog"
    plain = good_rows(file(tmp_path, "plain", content), format=kind)
    content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    marked = good_rows(file(tmp_path, "marked", b"\xef\xbb\xbf" + content), format=kind)
    assert [seen(row) for row in marked] == [seen(row) for row in plain]


def test_verbatim_is_the_row_as_it_stood(tmp_path: Path) -> None:
    rows = good_rows(file(tmp_path, "rows.csv", 'prompt,n\r\n"a\r\ncat",1\r\na dog,2\r\n'))
    assert [row.verbatim for row in rows] == ['"a\ncat",1', "a dog,2"]
    rows = good_rows(file(tmp_path, "rows.jsonl", '{"prompt":"a c\\u0061t", "x": 1.50}\n'))
    assert rows[0].verbatim == '{"prompt":"a c\\u0061t", "x": 1.50}'
    rows = good_rows(
        file(tmp_path, "rows.json", '[{"prompt": "a cat",\n    "x": 1.50 },{"prompt":"b"}]')
    )
    assert [row.verbatim for row in rows] == ['{"prompt": "a cat", "x": 1.50 }', '{"prompt":"b"}']
    rows = good_rows(file(tmp_path, "rows.parquet", as_parquet()))
    assert [json.loads(row.verbatim) for row in rows] == ROWS


def test_csv_quoting_is_rfc_4180_and_a_quote_inside_a_cell_is_literal(tmp_path: Path) -> None:
    text = 'prompt,a,b\n"x ""y"", z",,"1\n\n2"\na 5" disk,"",""""\n'
    rows = good_rows(file(tmp_path, "rows.csv", text))
    assert rows[0].prompt == 'x "y", z'
    assert rows[0].extras == {"a": "", "b": "1\n\n2"}
    assert rows[1].prompt == 'a 5" disk'
    assert rows[1].extras == {"a": "", "b": '"'}


def test_an_empty_cell_says_nothing_and_an_empty_json_text_is_a_value(tmp_path: Path) -> None:
    (row,) = good_rows(file(tmp_path, "rows.csv", "prompt,negative_prompt,steps\na cat,,\n"))
    assert row.parameters.settings() == {}
    text = '{"prompt": "a cat", "negative_prompt": "", "steps": null}'
    (row,) = good_rows(file(tmp_path, "rows.jsonl", text))
    assert row.parameters.settings() == {"negative_prompt": ""}


def test_columns_without_a_name_are_extras(tmp_path: Path) -> None:
    (row,) = good_rows(file(tmp_path, "rows.csv", ",prompt,\n0,a cat,\n"))
    assert row.extras == {"column_1": "0", "column_3": ""}


def test_elements_of_an_array_may_lie_across_chunks_and_hold_any_brackets(tmp_path: Path) -> None:
    rows = [{"prompt": f']}}[{{\\" {n} é' * (n % 50 + 1), "x": [{"y": "}"}]} for n in range(3000)]
    path = file(tmp_path, "rows.json", json.dumps(rows, ensure_ascii=False))
    assert path.stat().st_size > 10 * (1 << 16)
    assert [row.prompt for row in good_rows(path)] == [row["prompt"] for row in rows]


def test_lines_of_array_elements_are_where_they_start(tmp_path: Path) -> None:
    path = file(tmp_path, "rows.json", '\n[\n\n{"prompt":\n"a"},\n\n {"prompt": "b"}]\n')
    assert [row.line for row in good_rows(path)] == [4, 7]


def test_parquet_values_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["a cat"],
            "steps": pa.array([20.0]),
            "seed": pa.array([2**40], pa.uint64()),
            "when": [datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)],
            "price": [decimal.Decimal("1.50")],
            "tags": [["a", "b"]],
            "box": [{"x": 1, "y": float("nan")}],
            "text_bytes": [b"abc"],
            "bytes": [b"\xff\x00"],
            "score": [float("inf")],
            "took": [datetime.timedelta(seconds=1.5)],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    (row,) = good_rows(tmp_path / "rows.parquet")
    assert row.parameters.settings() == {"steps": 20, "seed": 2**40}
    assert row.line == 0
    assert row.extras == {
        "when": "2026-01-02T03:04:05+00:00",
        "price": "1.50",
        "tags": ["a", "b"],
        "box": {"x": 1, "y": None},
        "text_bytes": "abc",
        "bytes": "/wA=",
        "score": None,
        "took": 1.5,
    }


def test_dictionary_encoded_and_large_parquet_columns_are_read(tmp_path: Path) -> None:
    prompts = pa.array(["a cat", "a dog"] * 1000).dictionary_encode()
    table = pa.table({"prompt": prompts, "note": pa.array(["x"] * 2000, pa.large_string())})
    pq.write_table(table, tmp_path / "rows.parquet", compression="zstd")
    rows = good_rows(tmp_path / "rows.parquet")
    assert len(rows) == 2000
    assert rows[-1].prompt == "a dog"
