"""What is said of every column, in every format."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.scheduler_jobs.manifest import ColumnReport, ColumnReports
from imagemill.scheduler_jobs.manifest.columns.column_report import MOST_COLUMNS
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA
from tests.unit.manifests import DATA, read


def reported(path: Path, **options: object) -> list[tuple[str, str, str | None, str | None]]:
    columns = ColumnReports()
    read(path, reports=columns, **options)
    return [(each.column, each.role, each.field, each.example) for each in columns.found()]


ROW = {"Prompt": "a cat", "cfgScale": "7.5", "note": "x"}
FOUND = [
    ("Prompt", "field", "prompt", "a cat"),
    ("cfgScale", "field", "guidance_scale", "7.5"),
    ("note", "extra", None, "x"),
]


def test_every_format_says_the_same_of_its_columns(tmp_path: Path) -> None:
    lines = [",".join(ROW), ",".join(ROW.values())]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "rows.tsv").write_text("\n".join(lines).replace(",", "\t"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "rows.parquet")
    for file in tmp_path.iterdir():
        assert reported(file) == FOUND, file.name


def test_options_of_text_are_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text('--prompt "a cat" --cfg_scale 7.5 --do_not_save_grid true\n')
    assert reported(file) == [
        ("prompt", "field", "prompt", "a cat"),
        ("guidance_scale", "field", "guidance_scale", "7.5"),
        ("do_not_save_grid", "extra", None, "true"),
    ]


def test_a_refused_column_has_its_example_though_its_rows_are_not_read() -> None:
    file = DATA / "cases" / "i2p_columns.csv"
    assert ("sd_seed", "refused", "seed", "4261553411") in reported(file)
    assert ("sd_seed", "extra", None, "4261553411") in reported(file, columns={"sd_*": EXTRA})


def test_another_tool_s_setting_is_refused_where_one_row_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,tiling,subseed\na,false,-1\nb,true,-1\n")
    assert reported(file)[1:] == [
        ("tiling", "refused", None, "false"),
        ("subseed", "extra", None, "-1"),
    ]


def test_the_example_is_the_first_value_that_is_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "n": None}, {"prompt": "b", "n": ""}, {"prompt": "c", "n": [1]}]
    file.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "d", "n": 5, "late": 0}])))
    assert reported(file)[1:] == [("n", "extra", None, "[1]"), ("late", "extra", None, "0")]


def test_rows_with_keys_of_their_own_take_no_memory_without_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"prompt": "a", f"key {n}": "x" * 500}) for n in range(1500))
    )
    columns = ColumnReports()
    read(file, reports=columns)
    found = columns.found()
    assert len(found) == MOST_COLUMNS
    assert found[1] == ColumnReport(column="key 0", role="extra", example="x" * 99 + "…")
