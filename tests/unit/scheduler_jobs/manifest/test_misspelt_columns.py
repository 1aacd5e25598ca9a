"""Columns that are nearly called prompt."""

from pathlib import Path

import pytest

from imagemill.scheduler_jobs.manifest.columns.fields import PROMPT
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA
from tests.unit.manifests import good_rows, jsonl, problems


@pytest.mark.parametrize("name", ["promt", "pormpt", "promts"])
def test_a_misspelt_prompt_is_refused_also_beside_a_caption(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{name},caption\na cat,a photo\n")
    (line,) = problems(path)
    assert f'"{name}" looks like prompt, and is no name of it; --map {name}=prompt' in line
    assert [row.prompt for row in good_rows(path, columns={name: PROMPT})] == ["a cat"]
    assert [row.prompt for row in good_rows(path, columns={name: EXTRA})] == ["a photo"]
    (line,) = problems(jsonl(tmp_path, {name: "a cat"}))
    assert line.startswith(f'rows.jsonl:1: "{name}" looks like prompt')
    assert len(good_rows(jsonl(tmp_path, {"prompt": "a cat", name: "a dog"}))) == 1


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ("id,prompt_en", 'did you mean "prompt_en"? --map prompt_en=prompt uses it'),
        ("my prompt,title", "did you mean \"my prompt\"? --map 'my prompt=prompt' uses it"),
        ("pronpts,title", "looks like prompt"),
        ("title,colour", "or --map COLUMN=prompt"),
    ],
)
def test_without_a_prompt_the_nearest_column_is_named(
    columns: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{columns}\n1,a cat\n")
    (line,) = problems(path)
    assert hint in line
