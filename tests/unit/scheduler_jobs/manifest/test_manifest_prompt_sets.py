"""The prompt sets that people have are manifests as they are."""

import csv
import json

from tests.unit.manifests import DRAWBENCH, GENEVAL, PARTI_PROMPTS, good_rows


def test_parti_prompts_is_read_unchanged() -> None:
    rows = good_rows(PARTI_PROMPTS)
    lines = PARTI_PROMPTS.read_text(encoding="utf-8").split("\n")[1:-1]
    assert len(rows) == 1632
    assert [row.verbatim for row in rows] == lines
    assert [row.prompt for row in rows] == [line.split("\t")[0] for line in lines]
    assert sum('"' in row.verbatim for row in rows) == 28
    assert all(list(row.extras) == ["Category", "Challenge", "Note"] for row in rows)
    assert all(not row.parameters.settings() and row.key is None for row in rows)
    assert [row.number for row in rows] == list(range(1, 1633))
    assert [row.line for row in rows] == list(range(2, 1634))


def test_geneval_is_read_unchanged() -> None:
    rows = good_rows(GENEVAL)
    lines = GENEVAL.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 553
    for row, line in zip(rows, lines, strict=True):
        document = json.loads(line)
        assert row.verbatim == line
        assert row.prompt == document.pop("prompt")
        assert row.extras == document
    assert sum("exclude" in row.extras for row in rows) > 0


def test_a_drawbench_shaped_table_is_read_unchanged() -> None:
    with DRAWBENCH.open(encoding="utf-8", newline="") as stream:
        expected = list(csv.DictReader(stream))
    rows = good_rows(DRAWBENCH)
    assert len(rows) == 8
    assert [{"Prompts": row.prompt, **row.extras} for row in rows] == expected
    assert rows[5].prompt == "A poster of four lines:\none, two,\nthree, four."
    assert [row.line for row in rows[4:]] == [6, 7, 10, 11]
