"""`contact-sheet --x … --y …`: which picture stands where, and what stands around it."""

from dataclasses import replace

import pytest
from PIL import Image

from imagemill.db.errors import UsageError
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.pages import job_grid
from imagemill.scheduler_jobs.pages.grid_sheet import Axis, GridSheet
from imagemill.scheduler_jobs.pages.job_grid import GridLayout, job_grids
from tests.helpers.dataset import finished_job
from tests.helpers.hostile import HOSTILE_PROMPTS
from tests.helpers.mill import REFUSED, Mill, spec


@pytest.fixture
def sheets(monkeypatch):
    """What every grid shows, instead of its picture: the sheet, and its cells by row."""
    seen = []

    def draw(sheet, cell):
        rows = range(len(sheet.y.values))
        columns = range(len(sheet.x.values))
        seen.append((sheet, [[cell(column, row) for column in columns] for row in rows]))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(GridSheet, "draw", draw)
    return seen


def drawn(mill: Mill, job, tmp_path, sheets, x, y, **options):
    """Each grid as its title, its axes, and the labels of its cells (None: an empty one)."""
    layout = GridLayout(x=x, y=y)
    options = {"limit": 1000} | options
    list(job_grids(mill.database, FolderStorage(tmp_path), job, layout, **options))
    return [
        (
            sheet.title,
            list(sheet.x.values),
            list(sheet.y.values),
            [[tile and tile.label for tile in row] for row in rows],
        )
        for sheet, rows in sheets
    ]


def refused(mill, specs):
    job = mill.load("grid", specs)
    shift = mill.shift()
    for image in mill.claim(shift, limit=len(specs)):
        mill.begin(shift, [image.id])
        mill.fail(shift, image.id, REFUSED)
    return job


CELLS = [
    replace(spec("a"), sampler=sampler, guidance_scale=scale)
    for scale in (7.5, 10.0, 2.0)
    for sampler in ("euler", "ddim")
]


def test_numbers_are_sorted_and_words_stay_in_their_order(mill, tmp_path, sheets):
    job = refused(mill, CELLS)
    [grid] = drawn(mill, job, tmp_path, sheets, "sampler", "guidance_scale")
    assert grid == (
        "a",
        ["euler", "ddim"],
        ["2", "7.5", "10"],
        [["image 5", "image 6"], ["image 1", "image 2"], ["image 3", "image 4"]],
    )
    [(sheet, rows)] = sheets
    assert (sheet.x.title, sheet.y.title) == ("sampler", "guidance_scale")
    assert sheet.subtitle == "grid, job 1 · 1 · model model-aaaa · steps 20 · size 64x64 · seed 1"
    assert rows[0][0].note == "input_image"


def test_each_prompt_and_each_other_value_has_a_grid_and_what_was_not_asked_for_is_empty(
    mill, tmp_path, sheets
):
    job = refused(mill, [*CELLS[:3], replace(CELLS[0], steps=5), replace(CELLS[1], prompt="b")])
    grids = drawn(mill, job, tmp_path, sheets, "sampler", "guidance_scale")
    assert [grid[0] for grid in grids] == ["a", "a", "b"]
    assert grids[0][3] == [["image 1", "image 2"], ["image 3", None]]
    assert "steps 5" in sheets[1][0].subtitle


def test_samples_make_a_grid_each_and_say_their_seeds_where_these_differ(mill, tmp_path, sheets):
    seeds = [replace(cell, seed=seed) for cell in CELLS[:2] for seed in (5, 6)]
    job = refused(mill, [*seeds[:3], replace(seeds[3], seed=9)])
    grids = drawn(mill, job, tmp_path, sheets, "sampler", "guidance_scale")
    assert [grid[3] for grid in grids] == [
        [["image 1", "image 3"]],
        [["image 2 · seed 6", "image 4 · seed 9"]],
    ]
    assert "seed 5" in sheets[0][0].subtitle
    assert "seed" not in sheets[1][0].subtitle


def test_images_that_are_no_grid_are_refused_in_one_line(mill, tmp_path, sheets):
    specs = [replace(spec(f"p{n}"), sampler="euler", seed=n) for n in range(3)]
    job = refused(mill, specs)
    said = (
        "--x sampler, --y steps: no grid, as no two of the 3 images differ in these alone "
        r"\(but in prompt, seed\); leave out one to set the rows against the other"
    )
    with pytest.raises(UsageError, match=said):
        drawn(mill, job, tmp_path, sheets, "sampler", "steps")
    assert sheets == []
    assert len(drawn(mill, job, tmp_path, sheets, "sampler", None)) == 1
    sheets.clear()
    assert len(drawn(mill, job, tmp_path, sheets, "sampler", "steps", limit=1)) == 1


def test_one_axis_stands_against_the_rows(mill, folder_storage, tmp_path, sheets):
    rows = [
        {"prompt": f"p {mood}", "id": mood, "mood": mood, "steps": steps}
        for mood in ("calm", "wild")
        for steps in (1, 2)
    ]
    rows = [{**row, "id": f"{row['id']}-{row['steps']}"} for row in rows]
    job = finished_job(mill, folder_storage, tmp_path, rows, samples=1)
    layout = GridLayout(x="steps", y=None)
    list(job_grids(mill.database, folder_storage, job, layout, limit=9))
    [(sheet, cells)] = sheets
    assert sheet.y.values == ["calm-1", "calm-2", "wild-1", "wild-2"]
    assert sum(tile is not None and tile.image is not None for row in cells for tile in row) == 4
    sheets.clear()
    layout = GridLayout(x="mood", y="steps")
    list(job_grids(mill.database, folder_storage, job, layout, limit=9))
    assert [list(sheet.x.values) for sheet, _ in sheets] == [["calm"], ["wild"]]


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (2, ("--x", "moon"), "no such parameter here; known: "),
        (2, ("--x", "steps", "--y", "steps"), "both steps"),
        (2, ("--y", "row"), "both row"),
        (3, ("--x", "seed", "--y", "prompt"), "a grid of 3 x 1 pictures is too large"),
    ],
)
def test_axes_that_make_no_grid_are_one_line(
    at_home, mill, tmp_path, images, options, said, monkeypatch
):
    monkeypatch.setattr(job_grid, "_MOST_VALUES", 2)
    (at_home.home / "objects").mkdir()
    refused(mill, [spec("a", seed=n) for n in range(images)])
    file = tmp_path / "sheet.png"
    answer = at_home("contact-sheet", "latest", "-o", file, *options)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not file.exists()


def test_grids_are_files_beside_each_other(at_home, mill, tmp_path):
    (at_home.home / "objects").mkdir()
    refused(mill, [*CELLS, replace(CELLS[0], prompt="b")])
    words = ("contact-sheet", "latest", "-o", tmp_path / "g.png", "--x", "sampler", "--y")
    document = at_home(*words, "guidance_scale", "--json").json
    assert [file.rpartition("/")[2] for file in document["outputs"]] == ["g.png", "g-2.png"]
    assert document["images"] == 7


@pytest.mark.parametrize("text", ["", "v", *HOSTILE_PROMPTS, "🎨" * 50])
def test_any_texts_make_a_page_of_the_size_that_was_told(text):
    axis = Axis(title=text, values=[text, "second"])
    sheet = GridSheet(title=text, subtitle=text, x=axis, y=axis, tile_size=32)
    assert sheet.draw(lambda column, row: None).size == sheet.size()
