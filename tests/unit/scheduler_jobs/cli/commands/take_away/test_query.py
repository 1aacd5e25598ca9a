"""`imagemill query`: what is printed where, and what is said of what is not shown."""

import csv
import io
import json
import sys

import pyarrow.parquet as pq
import pytest

from imagemill.scheduler_jobs.cli.display import answer_table

WIDE = "SELECT image_id, prompt, sampler, weights_digest, request_key FROM dataset_images"


@pytest.fixture
def images(mill):
    mill.load("job", ["a red circle", "x" * 70, '=1+1, "quoted"\nline'])


@pytest.mark.usefixtures("images")
def test_a_file_or_a_program_gets_everything(at_home):
    answer = at_home("query", "SELECT image_id, prompt, error_code FROM dataset_images")
    lines = answer.out.splitlines()
    assert lines[0].split() == ["image_id", "prompt", "error_code"]
    assert lines[1].strip() == "1  a red circle"
    assert "x" * 70 in lines[2]
    assert (len(lines), answer.err) == (4, "")


@pytest.mark.usefixtures("images")
def test_a_terminal_gets_what_fits_and_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(answer_table, "SHOWN_ROWS", 2)
    rows = [(n, "p" * 70, "s" * 20) for n in range(3)]
    answer_table.print_answer(["n", "prompt", "sampler"], iter([rows]))
    out = capsys.readouterr().out
    assert "sampler" not in out.splitlines()[0]
    assert out.splitlines()[-1] == (
        "not shown here: 1 more column (sampler); rows after the first 2; texts after 60 "
        "characters. --format csv has everything"
    )
    answer_table.print_answer(["p" * 90, *"abcd"], iter([[tuple("12345")]]))
    assert "4 more columns (a, b, c, …)" in capsys.readouterr().out
    answer_table.print_answer(["n"], iter([[(1,)]]))
    assert "not shown" not in capsys.readouterr().out
    answer_table.print_answer(["n"], iter([]))
    assert capsys.readouterr().out.splitlines()[-1] == "no rows"


@pytest.mark.usefixtures("images")
def test_csv_json_and_parquet_hold_the_same(at_home, tmp_path):
    query = "SELECT image_id, prompt, options, error_code FROM dataset_images ORDER BY image_id"
    rows = list(csv.DictReader(io.StringIO(at_home("query", query, "--format", "csv").out)))
    objects = json.loads(at_home("query", query, "--format", "json").out)
    one_line = at_home("query", query, "--json").json
    file = tmp_path / "x.parquet"
    written = at_home("query", query, "--format", "parquet", "-o", file, "--json").json
    assert written == {"rows": 3, "output": str(file)}
    table = pq.read_table(file).to_pylist()
    assert one_line == {
        "columns": ["image_id", "prompt", "options", "error_code"],
        "rows": objects,
    }
    assert [row["prompt"] for row in rows] == [each["prompt"] for each in objects]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in table]
    assert rows[2]["prompt"] == '=1+1, "quoted"\nline'
    assert objects[0]["error_code"] is None
    assert rows[0]["error_code"] == ""
    assert json.loads(rows[0]["options"]) == objects[0]["options"]
    assert [path.name for path in tmp_path.glob(".*.part")] == []


@pytest.mark.usefixtures("images")
def test_the_suffix_of_the_file_says_the_format(at_home, tmp_path):
    query = "SELECT image_id FROM dataset_images ORDER BY image_id"
    for suffix in ("csv", "json", "PARQUET"):
        assert at_home("query", query, "-o", tmp_path / f"x.{suffix}").code == 0
    assert (tmp_path / "x.csv").read_text().split() == ["image_id", "1", "2", "3"]
    assert [each["image_id"] for each in json.loads((tmp_path / "x.json").read_text())] == [1, 2, 3]
    assert pq.read_table(tmp_path / "x.PARQUET").num_rows == 3
    assert at_home("query", query, "-o", tmp_path / "x.txt", "--format", "csv").code == 0
    assert at_home("query", query, "-o", tmp_path / "y.txt").code == 2


@pytest.mark.usefixtures("images")
def test_the_query_may_come_from_standard_input(at_home):
    assert at_home("query", "-", input=b"SELECT 1 AS one").out.split() == ["one", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SELECT promt FROM dataset_images"], "the query: no such column: promt"),
        (["DELETE FROM jobs"], "a query begins with SELECT, WITH or VALUES; this one begins with"),
        (["SELECT 1 AS a, 2 AS a", "--format", "json"], "two columns are called a"),
        (
            ["SELECT 1", "-o", "x"],
            "--output x: name it .csv, .json or .parquet, or give --format",
        ),
        (["SELECT 1", "--format", "csv", "-o", "/nowhere/x.csv"], "/nowhere/x.csv: can't be writ"),
    ],
)
def test_an_error_is_one_line(at_home, arguments, said):
    answer = at_home("query", *arguments)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {said}")
    assert answer.err.count("\n") == 1
