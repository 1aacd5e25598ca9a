"""Workbooks, Arrow files, saved data sets, folders of prompts, several files."""

import datetime
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest

from imagemill.db.errors import ManifestError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Problem, open_source
from tests.unit.manifests import good_rows, problems, read

ROWS = [
    {"id": "cat", "prompt": "a cat, sitting", "steps": 20, "guidance_scale": 7.5},
    {"id": "dog", "prompt": 'a "good" dog', "steps": 30, "guidance_scale": 1.0},
]


def seen(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [
        {"id": row.key, "prompt": row.prompt, **row.parameters.settings(), **row.extras}
        for row in good_rows(path, **options)
    ]


def workbook(path: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for n, rows in enumerate(sheets, start=1):
        sheet = book.create_sheet(f"Set {n}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def as_rows(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def arrow_stream(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(rows)
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path


def saved(folder: Path, *shards: list[dict[str, Any]]) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(shards):05}.arrow" for n in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        arrow_stream(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_the_first_sheet_of_a_workbook_is_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "book.xlsx", as_rows(ROWS), [["prompt"], ["a fox"]])
    assert seen(path) == ROWS
    assert seen(path.rename(tmp_path / "book")) == ROWS, "by its content"
    (tmp_path / "book").rename(path)
    assert [row.line for row in good_rows(path)] == [2, 3]
    assert seen(Path(f"{path}#Set 2")) == [{"id": None, "prompt": "a fox"}]
    assert problems(Path(f"{path}#Set 3")) == [
        'book.xlsx#Set 3: no sheet "Set 3"; one of "Set 1", "Set 2"'
    ]


def test_the_cells_of_a_workbook_are_exact(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 2, 1)
    path = workbook(
        tmp_path / "book.xlsx",
        [
            [],
            ["id", "prompt", "seed", "cfg", "day", "good", "note", None],
            [1.0, "a cat", 2**53 - 1, 7.3, day, True, "01", None],
            [None, None, None, None, None, None, None, None],
            ["a", "two\r\nlines", str(2**63 - 1), 1, day.date(), False, "", None],
        ],
    )
    first, second = good_rows(path)
    assert (first.key, first.parameters.seed) == ("1", 2**53 - 1)
    assert first.parameters.guidance_scale == 7.3
    assert first.extras == {"day": "2026-02-01", "good": True, "note": "01"}
    assert (second.number, second.line, second.prompt) == (2, 5, "two\nlines")
    assert second.parameters.seed == 2**63 - 1


def test_a_seed_that_excel_rounded_and_an_error_are_refused(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "book.xlsx",
        [
            ["prompt", "seed"],
            ["a", 1.2345678901234568e18],
            ["b", "#N/A"],
            ["c", 1, 2],
            ["d", 2**53],
        ],
    )
    rounded, error, many, whole = problems(path)
    assert whole.startswith("book.xlsx:4: seed: 9007199254740992.0, a float above 2^53")
    assert rounded.startswith("book.xlsx:1: seed: 1.234567890123457e+18, a float above 2^53")
    assert error == 'book.xlsx:2: seed: "#N/A", an error of the workbook; a value'
    assert many == "book.xlsx:3: 3 cells; 2, as the header has"


def test_a_formula_without_a_stored_value_is_no_empty_cell(tmp_path: Path) -> None:
    rows = [["prompt", "steps"], ["a", "=10+10"], ["b", 20]]
    path = workbook(tmp_path / "book.xlsx", rows)
    allowed = "a value, or the workbook as a spreadsheet saves it"
    assert problems(path) == [f"book.xlsx:1: steps: a formula without its value; {allowed}"]
    path = workbook(tmp_path / "last.xlsx", [["prompt"], ["a"], ['=LOWER("B")']])
    assert problems(path) == [f"last.xlsx:2: prompt: a formula without its value; {allowed}"]
    path = workbook(tmp_path / "header.xlsx", [["prompt", "=A1"], ["a", 1]])
    assert problems(path) == [
        f"header.xlsx: line 1: header: cell 2: a formula without its value; {allowed}"
    ]


def test_the_stored_value_of_a_formula_is_read_also_where_it_is_an_empty_text(
    tmp_path: Path,
) -> None:
    rows = [["prompt", "steps", "note"], ["a", "=10+10", '=""']]
    parts = _parts(workbook(tmp_path / "book.xlsx", rows))
    sheet = parts["xl/worksheets/sheet1.xml"]
    assert b"<f>10+10</f><v />" in sheet
    sheet = sheet.replace(b"<f>10+10</f><v />", b"<f>10+10</f><v>20</v>")
    sheet = sheet.replace(b'<c r="C2"><f>""</f><v />', b'<c r="C2" t="str"><f>""</f><v></v>')
    path = _zipped(tmp_path / "stored.xlsx", parts | {"xl/worksheets/sheet1.xml": sheet})
    (row,) = good_rows(path)
    assert (row.parameters.steps, row.extras) == (20, {"note": None})


def test_merged_cells_are_refused_since_only_the_first_of_them_has_a_value(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (["prompt", "steps"], ["a", 20], ["b", None], ["c", None]):
        book.active.append(cells)
    book.active.merge_cells("B2:B4")
    book.save(tmp_path / "book.xlsx")
    assert problems(tmp_path / "book.xlsx") == [
        "book.xlsx: merged cells, B2:B4: only the first cell of each has a value; "
        "a value in every cell that is to have one"
    ]


def test_merged_cells_without_a_value_are_blank_ones(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (["prompt", "steps"], ["a", 20], ["b", None], [None, None], ["c", 7]):
        book.active.append(cells)
    for blank in ("B3:B4", "D1:F9", "A6:B8"):
        book.active.merge_cells(blank)
    book.save(tmp_path / "book.xlsx")
    rows = good_rows(tmp_path / "book.xlsx")
    assert [(row.prompt, row.parameters.steps) for row in rows] == [
        ("a", 20),
        ("b", None),
        ("c", 7),
    ]
    book.active.merge_cells("A5:A6")
    book.save(tmp_path / "book.xlsx")
    (problem,) = problems(tmp_path / "book.xlsx")
    assert problem.startswith("book.xlsx: merged cells, A5:A6: only the first cell of each has")


def test_the_library_of_workbooks_stays_as_it_is_for_others(tmp_path: Path) -> None:
    """A notebook that submits may read other workbooks, of which merged cells are nothing wrong."""
    book = openpyxl.Workbook()
    book.active.append(["prompt", "steps"])
    book.active.append(["a", 20])
    book.active.merge_cells("B2:B4")
    book.save(tmp_path / "book.xlsx")
    assert problems(tmp_path / "book.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "book.xlsx", read_only=True).active
    assert sheet.max_row == 4
    assert list(sheet.iter_rows(max_row=2, values_only=True)) == [("prompt", "steps"), ("a", 20)]
    assert list(sheet.values)[2:] == [(None, None)] * 2


def test_a_hidden_first_sheet_is_read_only_by_its_name(tmp_path: Path) -> None:
    path = workbook(tmp_path / "book.xlsx", as_rows(ROWS), [["prompt"], ["a fox"]])
    book = openpyxl.load_workbook(path)
    book["Set 1"].sheet_state = "hidden"
    book.active = 1
    book.save(path)
    assert problems(path) == [
        'book.xlsx: a first sheet that is hidden, "Set 1"; '
        'the sheet that is meant: FILE#NAME with one of "Set 1", "Set 2"'
    ]
    assert seen(Path(f"{path}#Set 1")) == ROWS


def test_the_escapes_of_a_workbook_are_characters(tmp_path: Path) -> None:
    rows = [["prompt", "note"], ["a_x000D_\nb_x0009_c", "_x005F_x0041_ and _x0041_ and x005F_"]]
    (row,) = good_rows(workbook(tmp_path / "book.xlsx", rows))
    assert row.prompt == "a\nb\tc"
    assert row.extras == {"note": "_x0041_ and A and x005F_"}


def _zipped(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in parts.items():
            archive.writestr(name, body)
    return path


def _parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("sheets", "line"),
    [
        ([[]], "no header and no rows"),
        ([[["prompt", "seed"]]], "a header and no rows"),
        ([[["prompt", "prompt"], ["a", "b"]]], 'column "prompt" twice'),
        ([[["title"], ["a"]]], 'no prompt among the columns "title"'),
    ],
)
def test_a_sheet_that_is_no_manifest_is_one_line(
    tmp_path: Path, sheets: list[list[list[Any]]], line: str
) -> None:
    (found,) = problems(workbook(tmp_path / "book.xlsx", *sheets))
    assert line in found


def test_an_archive_or_damage_is_one_line(tmp_path: Path) -> None:
    path = _zipped(tmp_path / "a.xlsx", {"prompts.csv": b"prompt\na\n"})
    assert problems(path) == ["a.xlsx: a zip archive that is no Excel workbook; the files in it"]
    whole = workbook(tmp_path / "b.xlsx", as_rows(ROWS)).read_bytes()
    for end in range(4, len(whole), 97):
        (tmp_path / "b.xlsx").write_bytes(whole[:end])
        (line,) = problems(tmp_path / "b.xlsx")
        assert "the workbook is damaged" in line
    for at in range(30, len(whole), 211):
        (tmp_path / "b.xlsx").write_bytes(whole[:at] + b"\xff\xfe\xfd" + whole[at + 3 :])
        read(tmp_path / "b.xlsx")


def test_rows_far_below_are_not_waited_for(tmp_path: Path) -> None:
    parts = _parts(workbook(tmp_path / "a.xlsx", as_rows(ROWS)))
    sheet = parts["xl/worksheets/sheet1.xml"]
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(b'<row r="3"', b'<row r="999999999999"')
    found = problems(_zipped(tmp_path / "b.xlsx", parts))
    assert found == ["b.xlsx: line 100003: more than 100,000 blank rows in a row; rows"]


def test_an_arrow_stream_and_an_arrow_file_are_read(tmp_path: Path) -> None:
    path = arrow_stream(tmp_path / "rows.arrow", ROWS)
    assert seen(path) == ROWS
    table = pa.Table.from_pylist(ROWS)
    for compression in (None, "lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        (tmp_path / "rows").write_bytes(sink.getvalue().to_pybytes())
        assert seen(tmp_path / "rows") == ROWS, "by its content"


def test_arrow_is_read_by_the_rules_of_parquet(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "cfg": pa.array([7.3], pa.float32()), "x": [float("nan")]})
    with (tmp_path / "a.arrow").open("wb") as file, pa.ipc.new_stream(file, table.schema) as to:
        to.write_table(table)
    assert seen(tmp_path / "a.arrow") == [
        {"id": None, "prompt": "a", "guidance_scale": 7.3, "x": None}
    ]


def test_a_cut_or_damaged_arrow_file_is_one_line(tmp_path: Path) -> None:
    whole = arrow_stream(tmp_path / "a.arrow", ROWS * 8).read_bytes()
    for end in range(6, len(whole), 137):
        (tmp_path / "a.arrow").write_bytes(whole[:end])
        assert problems(tmp_path / "a.arrow") == [
            "a.arrow: the Arrow file is truncated: it has no end mark; a complete file"
        ]
    for at in range(8, len(whole) - 8, 61):
        (tmp_path / "a.arrow").write_bytes(whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :])
        read(tmp_path / "a.arrow")


def test_a_saved_data_set_is_a_manifest(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ROWS, [{**ROWS[0], "id": "fox", "steps": 0}], ROWS[:1])
    found = read(folder)
    assert [str(item) if isinstance(item, Problem) else item.number for item in found] == [
        *(1, 2),
        f"{folder}/data-00001-of-00003.arrow:1: steps: 0; a whole number from 1 to 1000",
        4,
    ]
    with open_source(str(folder), Settings()) as source:
        assert (source.name, source.stem) == (str(folder), "set")


def test_a_split_of_a_saved_data_set_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "sets" / "train", ROWS)
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert seen(tmp_path / "sets") == ROWS
    saved(tmp_path / "sets" / "test", ROWS[:1])
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert seen(Path(f"{tmp_path}/sets#test")) == ROWS[:1]
    for name, line in (
        ("sets", f"{tmp_path}/sets: several splits; '{tmp_path}/sets#SPLIT' with one of train, te"),
        ("sets#dev", f'{tmp_path}/sets: no split "dev"'),
    ):
        with pytest.raises(ManifestError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', "a file of the folder"),
        ('{"_data_files": [{"filename": "none.arrow"}]}', "no such file"),
        ('{"_data_files": []}', "without files"),
        ('{"a": 1}', "state.json does not say _data_files"),
        ("[" * 100_000, "state.json does not say _data_files"),
    ],
)
def test_a_data_set_that_is_not_whole_is_one_line(tmp_path: Path, state: str, line: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(ManifestError) as caught:
        read(tmp_path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_prompts_is_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, text in {
        "b.txt": "a red circle",
        "a2.txt": "\ufeffa blue square,\r\non red\n",
        "c.TXT": '[cat] -n4 --w 64, "prompt,seed"',
        "notes.md": "no prompt",
        ".hidden.txt": "no prompt",
    }.items():
        (folder / name).write_bytes(text.encode())
    assert [(row.number, row.key, row.prompt) for row in good_rows(folder)] == [
        (1, "a2", "a blue square,\non red"),
        (2, "b", "a red circle"),
        (3, "c", '[cat] -n4 --w 64, "prompt,seed"'),
    ]
    (folder / "b.txt").write_bytes(b"")
    (folder / "d.txt").write_bytes(b"\xff")
    assert problems(folder) == [
        "prompts/b.txt:1: prompt: an empty text; a text that says something",
        "prompts/d.txt:1: byte 0xff at offset 0 (line 1) is not UTF-8; "
        "UTF-8 text; save the file as UTF-8",
    ]


def test_the_name_of_a_prompt_s_file_belongs_to_the_manifest(tmp_path: Path) -> None:
    def fingerprint() -> str:
        with open_source(str(tmp_path), Settings()) as source:
            return source.fingerprint()

    (tmp_path / "a.txt").write_text("a cat")
    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert fingerprint() != before, "the id is another"


def test_several_files_and_patterns_are_one_manifest(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("prompt,seed\na cat,1\na dog,x\n")
    (tmp_path / "a.csv").write_text("prompt\na fox\n")
    (tmp_path / "c.jsonl").write_text('{"prompt": "an ox"}\n')
    with open_source([f"{tmp_path}/*.csv", f"{tmp_path}/c.jsonl"], Settings()) as source:
        assert source.name == f"{tmp_path}/*.csv, {tmp_path}/c.jsonl"
        assert source.stem == "a"
        assert [Path(file.name).name for file in source.files] == ["a.csv", "b.csv", "c.jsonl"]
    with pytest.raises(ManifestError, match="no file fits this pattern"):
        open_source(f"{tmp_path}/*.parquet", Settings())
    (tmp_path / "odd[1].csv").write_text("prompt\na hen\n")
    assert seen(tmp_path / "odd[1].csv") == [{"id": None, "prompt": "a hen"}], "as it stands"


def test_many_files_have_a_short_name(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{n}.txt") for n in range(9)]
    for name in names:
        Path(name).write_text("a cat")
    with open_source(names, Settings()) as source:
        assert source.name == f"{names[0]}, {names[1]}, … (9 files)"


def test_a_packed_workbook_is_unpacked_first(tmp_path: Path) -> None:
    body = workbook(tmp_path / "book.xlsx", as_rows(ROWS)).read_bytes()
    packed = io.BytesIO(pa.Codec("zstd").compress(body, asbytes=True))
    (tmp_path / "book.xlsx.zst").write_bytes(packed.getvalue())
    assert seen(tmp_path / "book.xlsx.zst") == ROWS


def test_bytes_that_are_no_text_are_an_extra_and_never_a_prompt(tmp_path: Path) -> None:
    latin = "caf\u00e9".encode("latin-1")
    path = arrow_stream(tmp_path / "rows.arrow", [{"prompt": b"a cat", "thumbnail": latin}])
    (row,) = good_rows(path)
    assert (row.prompt, row.extras) == ("a cat", {"thumbnail": "Y2Fm6Q=="})
    path = arrow_stream(tmp_path / "bytes.arrow", [{"prompt": latin}])
    assert problems(path) == [
        'bytes.arrow:1: prompt: bytes that are not UTF-8, "Y2Fm6Q==" as base64; UTF-8 text'
    ]
