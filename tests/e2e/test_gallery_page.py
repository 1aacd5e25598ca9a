"""The live gallery as a browser shows it: search, filters, comparison, and work that goes on."""

import json
import os
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest

from imagemill.db.database import Database
from imagemill.db.queries.pictures.image_reports import ImageFilter, list_images
from imagemill.db.queries.pictures.tags import tags_of
from imagemill.db.settings import Settings
from imagemill.db.tables import Score
from imagemill.scheduler_jobs.pages.report import ReportOptions, write_report
from tests.helpers.dataset import finished_job
from tests.helpers.hostile import HOSTILE_PROMPTS
from tests.helpers.http.gallery import served_gallery
from tests.helpers.mill import Mill
from tests.helpers.template import migrate_quickly

ROWS = [
    {"prompt": f"picture {n}", "id": f"p{n}", "sampler": ("ddim", "euler")[n % 2]}
    for n in range(30)
] + [{"prompt": text, "id": f"h{n}"} for n, text in enumerate(HOSTILE_PROMPTS)]

FOUND = "document.querySelector('#count').textContent"
TITLE = "document.querySelector('#viewer-title').textContent"
TILES = "document.querySelectorAll('.tile img').length"


@pytest.fixture
def mill(sqlite_url):
    database = Database.from_settings(Settings.load(database_url=sqlite_url))
    migrate_quickly(database)
    yield Mill(database)
    database.close()


@pytest.fixture
def gallery(mill, folder_storage):
    with served_gallery(mill.database, folder_storage) as served:
        yield served


@pytest.mark.browser
def test_search_filter_open_and_copy(browser, gallery, mill, folder_storage, tmp_path):
    finished_job(mill, folder_storage, tmp_path, ROWS, samples=1)
    browser.open(gallery.url)
    browser.wait(f"{TILES} > 0")
    assert "token" not in browser.evaluate("location.href")
    browser.wait(f"{FOUND} === '41 images'")
    browser.press("/")
    browser.type("picture 7")
    browser.wait(f"{FOUND} === '3 of 41 images'")
    browser.press("Escape")
    browser.wait(f"{FOUND} === '41 images'")
    browser.click(".histogram-row", text="euler")
    browser.wait(f"{FOUND} === '15 of 41 images'")
    browser.click(".tile-button")
    assert browser.wait(TITLE) == "image 2 · p1"
    browser.click("#panel .button", text="Copy seed")
    browser.wait("document.querySelector('#notice').textContent.includes('copied')")
    assert browser.clipboard().isdecimal()
    browser.wait("document.querySelector('#stage img').naturalWidth === 64")
    assert browser.evaluate("window.broken") is None
    assert browser.problems == []


@pytest.mark.browser
def test_keys_tag_pictures(browser, gallery, mill, folder_storage, tmp_path):
    finished_job(mill, folder_storage, tmp_path, ROWS[:6], samples=1)
    browser.open(gallery.url)
    browser.wait(f"{TILES} > 0")
    said = "document.querySelector('#notice').textContent"
    browser.press("ArrowRight", "ArrowRight", "k")
    browser.wait(f"{said} === 'image 2 is tagged keep'")
    assert browser.evaluate("document.querySelector('.badge.tags').textContent") == "keep"
    browser.press("Enter")
    browser.wait("document.querySelector('#viewer').open")
    browser.press("t")
    browser.type("odd:one")
    browser.press("Enter")
    browser.wait(f"{said} === 'image 2 is tagged odd:one'")
    browser.press("ArrowRight", ".")
    browser.wait(f"{said} === 'image 3 is tagged odd:one'")
    browser.press("x")
    browser.wait(f"{said} === 'image 3 is tagged reject'")
    browser.press("Escape")
    browser.wait("document.querySelectorAll('.badge.tags').length === 2")
    assert {image.id: tags for image, tags in _tagged(mill)} == {
        2: ["keep", "odd:one"],
        3: ["odd:one", "reject"],
    }
    # What was tagged can be looked for once it is counted, the last one too: no row changes then.
    rows = "[...document.querySelectorAll('.histogram-row')]"
    browser.wait(f"{rows}.some((each) => each.textContent.includes('reject'))")
    browser.click(".histogram-row", text="odd:one")
    browser.wait(f"{FOUND} === '2 of 6 images'")
    assert browser.problems == []


@pytest.mark.browser
def test_back_closes_a_picture_and_forward_opens_it(
    browser, gallery, mill, folder_storage, tmp_path
):
    finished_job(mill, folder_storage, tmp_path, ROWS[:6], samples=1)
    browser.open(gallery.url)
    browser.wait(f"{TILES} > 0")
    page, steps = browser.evaluate("[location.href, history.length]")
    is_open = "document.querySelector('#viewer').open"
    browser.press("ArrowRight", "Enter")
    browser.wait(f"{is_open} && location.hash === '#image-1'")
    browser.press("ArrowRight")
    browser.wait("location.hash === '#image-2'")
    browser.evaluate("history.back()")
    browser.wait(f"!{is_open} && location.hash === ''")
    browser.evaluate("history.forward()")
    browser.wait(f"{is_open} && location.hash === '#image-2'")
    browser.press("Escape")
    browser.wait(f"!{is_open} && location.hash === ''")
    assert browser.evaluate("history.length") == steps + 1
    # Sooner than the step before is taken back.
    browser.press("Enter", "Escape", "Enter")
    browser.wait(f"{is_open} && location.hash === '#image-2' && !explorer.leaving")
    assert browser.evaluate("history.state.viewer")
    # Opened again before the browser has said that the dialog was closed.
    browser.evaluate("{ byId('viewer').close(); explorer.open(2); }")
    browser.wait(f"{is_open} && location.hash === '#image-3' && explorer.viewer.index === 2")
    # Closed, opened and closed again before the step back has been taken: one step back is enough.
    browser.evaluate("explorer.viewer.dialog.close()")
    browser.evaluate("explorer.leaving && (explorer.open(1), explorer.viewer.dialog.close())")
    browser.wait(f"!{is_open} && location.hash === '' && !explorer.leaving")
    assert browser.evaluate("history.length") == steps + 1
    assert browser.evaluate("location.href") == page
    assert browser.problems == []


@pytest.mark.browser
def test_the_page_says_its_keys_and_keeps_its_colours(
    browser, gallery, mill, folder_storage, tmp_path
):
    name = "a-name-" + "x" * 120
    finished_job(
        mill, folder_storage, tmp_path, [*ROWS[:2], {"prompt": "final one"}], name=name, samples=1
    )
    browser.open(gallery.url)
    browser.wait(f"{TILES} > 0")
    browser.press("?")
    told = browser.wait("document.querySelector('#help').open && byId('help-keys').textContent")
    assert "tag keep" in told
    assert "search" in told
    browser.press("?")
    browser.wait("!document.querySelector('#help').open")
    browser.click(".theme")
    theme = browser.wait("document.documentElement.dataset.theme")
    browser.open(gallery.base)
    browser.wait(f"{TILES} > 0")
    assert browser.evaluate("document.documentElement.dataset.theme") == theme
    browser.evaluate("explorer.open(2)")
    assert "no picture" in browser.wait("document.querySelector('#stage .why')?.textContent")
    browser.press("Escape")
    browser.resize(390, 844, phone=True)
    browser.wait("document.documentElement.scrollWidth === 390")
    assert browser.problems == []


@pytest.mark.browser
def test_a_job_that_is_not_there_leads_to_the_newest(
    browser, gallery, mill, folder_storage, tmp_path
):
    browser.open(gallery.url)
    browser.wait("document.body.innerText.includes('There is no job yet')")
    finished_job(mill, folder_storage, tmp_path, ROWS[:2], samples=1)
    browser.wait(f"{TILES} === 2")
    browser.open(f"{gallery.base}/jobs/99")
    browser.click("a.link", text="newest")
    browser.wait(f"{TILES} === 2")


@pytest.mark.browser
@pytest.mark.parametrize("live", [True, False], ids=["gallery", "report"])
def test_scores_order_pictures(browser, gallery, mill, folder_storage, tmp_path, live):
    job = finished_job(mill, folder_storage, tmp_path, ROWS[:4], samples=1)
    about = {"name": "clip", "scorer": "s", "version": "1", "generation": 1, "text": None}
    rows = [Score(image_id=n, value=n % 3, **about) for n in (1, 2, 3)]
    mill.database.run(lambda session: session.add_all(rows))
    file = tmp_path / "report.html"
    write_report(mill.database, folder_storage, job, file, options=ReportOptions())
    browser.open(gallery.url if live else file.as_uri())
    browser.wait(f"{TILES} === 4")
    browser.click("#order")
    browser.press("ArrowDown", "Enter")
    browser.wait(f"{FOUND} === '3 of 4 images'")
    order = "explorer.images.map((image) => image.image_id)"
    assert browser.evaluate(order) == [2, 1, 3]
    assert browser.problems == []


def _tagged(mill):
    with mill.database.reading() as session:
        images = list_images(session, ImageFilter(), limit=100)
        tags = tags_of(session, images[0].job_id, first=1, last=100)
    return [(image, tags[image.id]) for image in images if image.id in tags]


@pytest.mark.browser
def test_two_jobs_side_by_side(browser, gallery, mill, folder_storage, tmp_path):
    first = finished_job(mill, folder_storage, tmp_path, ROWS[:4], samples=1)
    changed = [{**row, "steps": 3} for row in ROWS[1:4]]
    second = finished_job(mill, folder_storage, tmp_path, changed, name="second", samples=1)
    browser.open(gallery.url)
    browser.wait(f"{TILES} > 0")
    browser.open(f"{gallery.base}/jobs/{first}?with={second}")
    browser.wait(f"{TILES} === 7")
    assert browser.evaluate(FOUND) == f"4 images · left job {first}, right job {second}"
    missing = "document.querySelector('.tile .missing').textContent"
    assert browser.evaluate(missing) == "not in the other job"
    browser.click(".tile-button", text="p1")
    browser.wait("document.querySelectorAll('#stage img').length === 2")
    differing = "[...document.querySelectorAll('.differs th')].map((each) => each.textContent)"
    assert browser.evaluate(differing) == ["Row", "Steps", "SHA-256"]
    assert browser.problems == []


@pytest.mark.browser
def test_pictures_appear_while_a_job_is_at_work(browser, gallery, mill, folder_storage):
    job = mill.load("at work", ["a", "b"])
    browser.open(gallery.url)
    browser.wait("document.querySelectorAll('.tile .missing').length === 2")
    mill.cancel(job)
    browser.wait("document.querySelector('.tile').textContent.includes('cancelled')")
    browser.wait("document.querySelector('.state').textContent === 'cancelled'")
    assert browser.problems == []


@pytest.mark.browser
def test_a_gallery_without_a_job_says_so(browser, gallery):
    browser.open(gallery.url)
    browser.wait("document.body.textContent.includes('There is no job yet.')")
    assert browser.problems == []


def test_the_command_prints_an_address_that_opens_it_and_ends_cleanly(mill, tmp_path):
    command = [sys.executable, "-m", "imagemill", "gallery", "--port", "0", "--json"]
    settings = {
        "IMAGEMILL_DATABASE_URL": f"sqlite:///{tmp_path / 'imagemill.sqlite3'}",
        "IMAGEMILL_STORAGE_URL": str(tmp_path),
    }
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | settings
    ) as process:
        about = json.loads(process.stdout.readline())
        with pytest.raises(OSError, match="403"):
            urlopen(f"http://127.0.0.1:{about['port']}/", timeout=240)
        process.send_signal(signal.SIGINT)
        assert process.wait(240) in (0, 130)
