"""The tool that takes the documents' screenshots: every page is there to be taken."""

import pytest
from PIL import Image

from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.pages.report import ReportOptions, write_report
from tests.helpers.dataset import finished_job
from tests.helpers.http.gallery import served_gallery
from tests.helpers.mill import Mill
from tests.helpers.template import migrate_quickly
from tools import screenshots


@pytest.mark.browser
def test_every_screenshot_is_taken(browser, sqlite_url, folder_storage, tmp_path, monkeypatch):
    monkeypatch.setattr(screenshots, "IMAGES", tmp_path)
    database = Database.from_settings(Settings.load(database_url=sqlite_url))
    migrate_quickly(database)
    mill = Mill(database)
    job = finished_job(mill, folder_storage, tmp_path, screenshots.ROWS, samples=3)
    others = [{**row, "seed": 8} for row in screenshots.ROWS]
    finished_job(mill, folder_storage, tmp_path, others, name="other", samples=3)
    report = tmp_path / "report.html"
    write_report(database, folder_storage, job, report, options=ReportOptions())
    screenshots.take_report(browser, report)
    with served_gallery(database, folder_storage) as gallery:
        screenshots.take_comparison(browser, gallery.url, gallery.base)
    database.close()
    sizes = {}
    for file in tmp_path.glob("*.png"):
        with Image.open(file) as picture:
            sizes[file.name] = picture.size
    assert sizes == {
        "report.png": (1280, 860),
        "report-picture.png": (1280, 720),
        "report-phone.png": (800, 780),
        "gallery-compare.png": (1280, 720),
    }
    assert browser.problems == []
