"""`diff`: what it prints, its exit code, and its sheet."""

import json

import pytest
from PIL import Image

from imagemill.db.storage.folder import FolderStorage
from tests.contract.pictures.test_comparison import picture, render, rows


@pytest.fixture
def jobs(mill, home):
    """Two jobs: a row is equal, one has other steps and pixels, one is only in B."""
    store = FolderStorage(home / "objects")
    mill.load("before", rows("same", "other"))
    render(mill, store, {"same": picture(1), "other": picture(2)})
    mill.load("after", [*rows("same"), *rows("other", steps=30), *rows("new")])
    render(mill, store, {"other": picture(2, spots=5), "new": picture(4)})


def test_diff_says_what_differs(at_home, jobs):
    answer = at_home("diff", "before", "after")
    assert answer.code == 1
    assert "parameters differ  1: steps (1)" in answer.out
    assert "only in B          1 image" in answer.out
    assert "steps 20 → 30  5 (0.122 %), at most 3 of 255" in answer.out
    assert "only in B" in answer.out.splitlines()[-1]


def test_a_job_does_not_differ_from_itself(at_home, jobs):
    answer = at_home("diff", "before", "before")
    assert answer.code == 0
    assert answer.out.endswith("nothing differs\n")


def test_json_has_a_line_for_each_difference_and_the_totals_last(at_home, jobs):
    lines = at_home("diff", "before", "after", "--quick", "--json").out.splitlines()
    changed, new, totals = map(json.loads, lines)
    assert changed["parameters"] == {"steps": {"a": 20, "b": 30}}
    assert changed["pixels"]["why"] == "other hash"
    assert (new["a"], new["b"]["row_number"]) == (None, 3)
    assert (totals["matched"], totals["pixels_differ"], totals["only_b"]) == (2, 1, 1)


def test_the_sheet_is_written(at_home, jobs, tmp_path):
    file = tmp_path / "apart.png"
    assert at_home("diff", "before", "after", "--sheet", file).code == 1
    assert Image.open(file).width == 2 * 32 + 3 * 256 + 2 * 20
    answer = at_home("diff", "before", "after", "--sheet", tmp_path / "none" / "x.png")
    assert (answer.code, "can't be written" in answer.err) == (2, True)
