"""`contact-sheet`: pages of a job, what stands under a picture, and what can't be written."""

from dataclasses import replace

import pytest
from PIL import Image

from imagemill.db.errors import UsageError
from imagemill.db.specs import AddedModel
from imagemill.db.states import ImageState
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.pages import job_sheet
from imagemill.scheduler_jobs.pages.job_sheet import Choice, Layout, job_pages
from tests.helpers.mill import REFUSED, Mill, spec


@pytest.fixture
def dead(mill: Mill) -> int:
    """A job of five dead images, of which two differ in more than the seed."""
    specs = [spec(f"p{n}", seed=n) for n in range(3)]
    specs += [replace(spec("q"), sampler="euler"), replace(spec("q"), guidance_scale=7.5)]
    job = mill.load("shapes", specs)
    shift = mill.shift()
    for image in mill.claim(shift, limit=5):
        mill.begin(shift, [image.id])
        mill.fail(shift, image.id, REFUSED)
    return job


def told(mill, job, tmp_path, monkeypatch, **options):
    """The subtitle and the tiles of every page."""
    seen = []

    def sheet(tiles, *, subtitle, **_):
        seen.append((subtitle, list(tiles)))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(job_sheet, "contact_sheet", sheet)
    list(job_pages(mill.database, FolderStorage(tmp_path), job, **options))
    return seen


def test_a_page_says_how_much_of_the_job_it_shows(mill, dead, tmp_path, monkeypatch):
    for limit, words in ((2, "job 1, first 2 of 5 images"), (60, "job 1, 5 images")):
        [(subtitle, tiles)] = told(mill, dead, tmp_path, monkeypatch, limit=limit)
        assert subtitle == words
        assert len(tiles) == min(5, limit)


def test_a_condition_chooses_the_images(mill, dead, tmp_path, monkeypatch):
    for where, limit, labels, words in (
        ("prompt = 'q'", 60, ["image 4 · 4", "image 5 · 5"], "job 1, 2 images"),
        ("seed < 2", 1, ["image 1 · 1"], "job 1, images 1 to 1 of those that the condition takes"),
    ):
        [(subtitle, tiles)] = told(
            mill, dead, tmp_path, monkeypatch, limit=limit, choice=Choice(where=where)
        )
        assert (subtitle, [tile.label for tile in tiles]) == (words, labels)
    with pytest.raises(UsageError, match="--where: nothing is called 'sede'"):
        told(mill, dead, tmp_path, monkeypatch, limit=60, choice=Choice(where="sede = 1"))
    for choice in (Choice(where="seed > 100"), Choice(key="nonesuch"), Choice(states=())):
        with pytest.raises(UsageError, match="no image of job 1 is left"):
            told(mill, dead, tmp_path, monkeypatch, limit=60, choice=choice)


def test_many_images_make_several_pages(mill, dead, tmp_path, monkeypatch):
    layout = Layout(page_images=2)
    pages = told(mill, dead, tmp_path, monkeypatch, limit=60, layout=layout)
    assert [subtitle for subtitle, _ in pages] == [
        "job 1, first 2 of 5 images, page 1 of 3",
        "job 1, images 3 to 4 of 5, page 2 of 3",
        "job 1, images 5 to 5 of 5, page 3 of 3",
    ]


def test_a_tile_says_which_image_it_is_and_what_differs(mill, dead, tmp_path, monkeypatch):
    [(_, tiles)] = told(mill, dead, tmp_path, monkeypatch, limit=60)
    assert [tile.label for tile in tiles] == [f"image {n} · {n}" for n in range(1, 6)]
    assert [tile.details for tile in tiles] == [
        "ddim · g 5 · seed 0",
        "ddim · g 5 · seed 1",
        "ddim · g 5 · seed 2",
        "euler · g 5 · seed 1",
        "ddim · g 7.5 · seed 1",
    ]
    [(_, [only])] = told(mill, dead, tmp_path, monkeypatch, limit=60, choice=Choice(key="4"))
    assert only.details == "seed 1"


def test_pages_of_a_sheet_are_files_beside_each_other(at_home, dead, tmp_path, monkeypatch):
    monkeypatch.setattr("imagemill.scheduler_jobs.cli.commands.look.sheets.PAGE_IMAGES", 2)
    document = at_home("contact-sheet", "latest", "-o", tmp_path / "s.webp", "--json").json
    assert document["images"] == 5
    assert [file.rpartition("/")[2] for file in document["outputs"]] == [
        *("s.webp", "s-2.webp", "s-3.webp"),
    ]
    for file in document["outputs"]:
        with Image.open(file) as page:
            assert page.format == "WEBP"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "sheet.tiff"], "can be written as .png, .jpg"),
        (["-o", "sheet"], "can be written as .png, .jpg"),
        (["-o", "s.webp", "--columns", "100", "--tile", "1024"], "WEBP takes 16,383"),
        (["-o", "none/sheet.png"], "there is no folder"),
        (["-o", f"{'n' * 300}.png"], "can't be written: "),
    ],
)
def test_a_sheet_that_cannot_be_written_is_one_line(
    at_home, dead, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    answer = at_home("contact-sheet", "latest", *arguments)
    assert answer.code == 2
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.glob("s*.*"))


@pytest.mark.slow
def test_a_page_is_never_higher_than_its_format_takes(at_home, mill, tmp_path):
    job = mill.load("many", [spec(f"p{n}", seed=n) for n in range(40)])
    shift = mill.shift()
    for image in mill.claim(shift, limit=40):
        mill.begin(shift, [image.id])
        mill.fail(shift, image.id, REFUSED)
    options = ["--columns", "1", "--tile", "1024", "-o", tmp_path / "s.webp", "--json"]
    files = at_home("contact-sheet", job, *options).json["outputs"]
    assert len(files) > 1
    for file in files:
        with Image.open(file) as page:
            assert page.height <= 16_383


def test_a_sheet_names_the_characters_that_no_font_here_has(at_home, mill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = mill.load("old", ["\U00012000 and \U00012001", "plain"])
    shift = mill.shift()
    for image in mill.claim(shift):
        mill.begin(shift, [image.id])
        mill.fail(shift, image.id, REFUSED)
    answer = at_home("contact-sheet", job)
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("no font here draws \U00012000 \U00012001: they are boxes")
    assert "imagemill[fonts]" in answer.err


def test_the_sheets_of_two_jobs_do_not_overwrite_each_other(
    at_home, mill, dead, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = mill.load("other", ["a ring"])
    files = [at_home("contact-sheet", job, "--json").json["output"] for job in (dead, other)]
    assert files == [str(tmp_path / f"contact-sheet-{job}.png") for job in (dead, other)]


def test_what_belongs_to_a_picture_is_told_where_there_is_one(mill, tmp_path, monkeypatch):
    controlled = replace(
        spec("a"), control_image="c" * 64, controlnet=AddedModel(name="canny", digest="d" * 64)
    )
    specs = [
        spec("a"),
        controlled,
        replace(controlled, control_scale=0.5),
        replace(spec("a"), init_image="e" * 64, strength=0.25, guidance_end=0.6),
    ]
    job = mill.load("pictures", specs)
    choice = Choice(states=[ImageState.READY])
    [(_, tiles)] = told(mill, job, tmp_path, monkeypatch, limit=60, choice=choice)
    assert [tile.details for tile in tiles] == [
        "guided to 1 · seed 1",
        "control 1 · guided to 1 · seed 1",
        "control 0.5 · guided to 1 · seed 1",
        "strength 0.25 · guided to 0.6 · seed 1",
    ]
