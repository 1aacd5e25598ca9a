"""The report as a browser shows it: found, opened, zoomed and copied by keys and clicks."""

import shlex
import subprocess

import pytest

from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.pages.report import ReportOptions, write_report
from tests.helpers.dataset import finished_job
from tests.helpers.hostile import HOSTILE_PROMPTS
from tests.helpers.mill import Mill
from tests.helpers.template import migrate_quickly

pytestmark = pytest.mark.browser

SAMPLERS = ("ddim", "euler")
ROWS = [
    {"prompt": f"picture {n}", "id": f"p{n}", "sampler": SAMPLERS[n % 2], "mood": "calm"}
    for n in range(40)
] + [{"prompt": "final refused", "id": "dead"}]
HOSTILE_ROWS = [{"prompt": text, "id": f"h{n}"} for n, text in enumerate(HOSTILE_PROMPTS)]

TILES = "document.querySelectorAll('.tile').length"
FOUND = "document.querySelector('#count').textContent"
TITLE = "document.querySelector('#viewer-title').textContent"


@pytest.fixture
def opened(browser, folder_storage, sqlite_url, tmp_path):
    """A function that renders rows, opens their report in the browser and gives the browser."""
    database = Database.from_settings(Settings.load(database_url=sqlite_url))
    migrate_quickly(database)

    def call(rows, **options):
        job = finished_job(Mill(database), folder_storage, tmp_path, rows, samples=1)
        file = tmp_path / "report.html"
        about = ReportOptions(command="imagemill --home 'my out'", **options)
        write_report(database, folder_storage, job, file, options=about)
        browser.open(file.as_uri())
        browser.wait(f"{TILES} > 0")
        return browser

    yield call
    database.close()


def test_search_filter_open_move_copy_and_close(opened):
    page = opened(ROWS)
    assert page.evaluate(FOUND) == "41 images"
    page.press("/")
    page.type("picture 1")
    page.wait(f"{FOUND} === '13 of 41 images'")
    page.press("Escape")
    page.wait(f"{FOUND} === '41 images'")
    page.click(".histogram-row", text="euler")
    page.wait(f"{FOUND} === '20 of 41 images'")
    page.click(".chip")
    page.wait(f"{FOUND} === '41 images'")

    page.click(".tile-button")
    assert page.wait(TITLE) == "image 1 · p0"
    page.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.evaluate(TITLE) == "image 2 · p1"
    assert page.evaluate("location.hash") == "#image-2"
    for button, what, text in (
        ("Copy prompt", "Prompt", "picture 1"),
        ("reproduce", "Command", "reproduce 2"),
    ):
        page.click("#panel .button", text=button)
        page.wait(f"document.querySelector('#notice').textContent === '{what} copied'")
        assert text in page.clipboard()
    assert page.clipboard() == "imagemill --home 'my out' reproduce 2"
    before = page.evaluate("document.querySelector('#stage img').getBoundingClientRect().width")
    page.press("+", "+")
    after = page.evaluate("document.querySelector('#stage img').getBoundingClientRect().width")
    assert after > before
    page.press("0", "Escape")
    page.wait("document.activeElement.closest('.tile')?.dataset.index === '1'")
    # The picture that was looked at last has the focus, and arrows go on from there.
    page.press("ArrowRight", "Enter")
    assert page.wait(f"document.querySelector('#viewer').open && {TITLE}") == "image 3 · p2"
    assert page.problems == []


def test_a_dead_image_says_why_and_its_code_is_counted(opened):
    page = opened(ROWS)
    assert "input_image" in page.evaluate("document.querySelector('.failures').textContent")
    page.press("/")
    page.type("refused")
    page.wait(f"{FOUND} === '1 of 41 images'")
    assert page.evaluate("document.querySelector('.missing-dead').textContent") == "input_image"
    page.press("Escape", "/")
    page.type("nothing is like this")
    page.wait("!document.querySelector('#empty').hidden")
    page.click("#empty button")
    page.wait(f"{FOUND} === '41 images'")
    assert page.problems == []


def test_hostile_prompts_are_shown_and_copied_as_they_are(opened):
    page = opened(HOSTILE_ROWS)
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('#grid script, #grid svg').length") == 0
    for number, text in enumerate(HOSTILE_PROMPTS):
        page.evaluate(f"explorer.open({number})")
        assert page.evaluate("document.querySelector('.prompt').textContent") == text
        command = page.evaluate("runCommand(explorer.images[explorer.viewer.index])")
        script = command.replace("imagemill run", "printf '%s\\0'", 1)
        told = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        assert told.split(b"\0")[1].decode() == text
        # Nothing that a terminal would obey, or that turns the order of letters around.
        assert all(letter.isprintable() or letter == " " for letter in command), ascii(command)
        if text.isprintable():
            assert shlex.split(command)[3] == text
    page.evaluate("byId('viewer').close()")
    page.resize(390, 844, phone=True)
    page.wait("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("window.broken") is None
    assert page.problems == []


def test_only_what_can_be_seen_is_in_the_page(opened):
    page = opened(ROWS)
    page.evaluate("explorer.grid.show(Array.from({ length: 50 }, () => explorer.images).flat())")
    page.resize(390, 844, phone=True)
    page.press("End")
    page.evaluate("explorer.grid.focus(1e9)")
    page.wait("document.activeElement.closest('.tile')?.dataset.index === '2049'")
    assert page.evaluate(TILES) < 60
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_first_images_only_are_said_to_be_that(opened):
    page = opened(ROWS, max_images=5)
    assert "first 5 of 41 images" in page.evaluate("document.querySelector('.plain').textContent")
    assert page.evaluate(TILES) == 5


def test_names_and_headings_for_those_who_do_not_see_the_page(opened):
    page = opened(ROWS)
    page.evaluate("explorer.open(0)")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    unnamed = [
        node
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value")
        in ("button", "textbox", "combobox", "image", "dialog")
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    picture = next(node for node in nodes if node.get("role", {}).get("value") == "image")
    assert picture["name"]["value"] == "picture 0"
