"""The report's file: whole or not at all, everything in it, and no text of a job as markup."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from imagemill.db.errors import StorageError
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.pages.page_files import asset
from imagemill.scheduler_jobs.pages.report import ReportOptions, write_report
from tests.helpers.dataset import finished_job
from tests.helpers.hostile import HOSTILE_PROMPTS

ROWS = (
    {"prompt": "a red circle", "id": "p1", "mood": "calm", "steps": 2, "seed": 2**64 - 2},
    {"prompt": "final refused", "id": "p2", "mood": "wild", "steps": 3},
)


class _Elements(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.scripts = []
        self._kind = None

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self._kind = dict(attrs).get("class", "") if tag == "script" else None

    def handle_data(self, data):
        if self._kind is not None:
            self.scripts.append((self._kind, data))
            self._kind = None


def blocks(page, kind):
    """The values of a page's data elements of one kind, blocks of lists joined."""
    reader = _Elements()
    reader.feed(page)
    return [json.loads(text) for found, text in reader.scripts if found == kind]


def _objects(home):
    (home / "objects").mkdir()
    return FolderStorage(home / "objects")


def report(mill, storage, job, tmp_path, **options):
    file = tmp_path / "report.html"
    result = write_report(mill.database, storage, job, file, options=ReportOptions(**options))
    return result, file.read_text()


def test_a_report_has_the_figures_the_images_and_small_copies(mill, folder_storage, tmp_path):
    job = finished_job(mill, folder_storage, tmp_path, ROWS)
    result, page = report(mill, folder_storage, job, tmp_path, thumbnail_size=32)
    assert (result.images, result.thumbnails, result.requested) == (4, 2, 4)
    [summary] = blocks(page, "summary")
    assert summary["job"]["counts"]["done"] == 2
    assert [(each["code"], each["images"]) for each in summary["failures"]] == [("input_image", 2)]
    names = {each["name"] for each in summary["histograms"]}
    assert {"state", "steps", "model", "sampler", "size", "extras.mood"} <= names
    assert sum(summary["throughput"]["images"]) == 2
    [images] = blocks(page, "images")
    assert images[0]["seed"] == str(2**64 - 2)
    assert images[0]["row_key"] == "p1"
    assert (tmp_path / images[0]["file"]).is_file()
    assert images[2]["error_code"] == "input_image"
    [copies] = blocks(page, "thumbnails")
    with Image.open(io.BytesIO(base64.b64decode(copies[0]))) as copy:
        assert (copy.format, copy.size) == ("WEBP", (32, 32))
        assert not copy.info.get("exif")
    assert copies[2:] == [None, None]


def test_a_report_takes_nothing_from_the_network(mill, folder_storage, tmp_path):
    job = finished_job(mill, folder_storage, tmp_path, ROWS)
    _, page = report(mill, folder_storage, job, tmp_path)
    assert "default-src &#x27;none&#x27;" in page
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches


def test_hostile_texts_stay_texts(mill, folder_storage, tmp_path):
    rows = [{"prompt": text, "id": f"h{n}", "note": text} for n, text in enumerate(HOSTILE_PROMPTS)]
    job = finished_job(mill, folder_storage, tmp_path, rows, samples=1)
    plain = finished_job(mill, folder_storage, tmp_path, ROWS, name="plain")
    _, page = report(mill, folder_storage, job, tmp_path)
    _, expected = report(mill, folder_storage, plain, tmp_path)
    found, wanted = _Elements(), _Elements()
    found.feed(page)
    wanted.feed(expected)
    assert found.names == wanted.names
    [images] = blocks(page, "images")
    assert [image["prompt"] for image in images] == list(HOSTILE_PROMPTS)
    assert [image["extras"]["note"] for image in images] == list(HOSTILE_PROMPTS)


def test_a_report_of_more_images_than_asked_says_so_and_counts_all(at_home, mill, tmp_path):
    storage = _objects(at_home.home)
    finished_job(mill, storage, tmp_path, ROWS)
    file = tmp_path / "r.html"
    answer = at_home("report", "latest", "-o", file, "--max-images", 3, "--json")
    assert (answer.json["images"], answer.json["requested"]) == (3, 4)
    plain = at_home("report", "latest", "-o", file, "--max-images", 3)
    assert "3 of 4 images" in plain.out
    assert "--max-images" in plain.err
    [summary] = blocks(file.read_text(), "summary")
    assert summary["job"]["requested"] == 4
    assert summary["command"].startswith("imagemill --home ")


def test_small_copies_end_at_their_limit_and_later_images_name_their_files(
    mill, folder_storage, tmp_path, monkeypatch
):
    monkeypatch.setattr("imagemill.scheduler_jobs.pages.report.PAGE", 1)
    job = finished_job(mill, folder_storage, tmp_path, ROWS[:1])
    result, page = report(mill, folder_storage, job, tmp_path, thumbnail_bytes=1)
    assert (result.images, result.thumbnails) == (2, 1)
    assert all(image["file"] for block in blocks(page, "images") for image in block)


def test_a_report_is_there_whole_or_not_at_all(mill, folder_storage, tmp_path, monkeypatch):
    job = finished_job(mill, folder_storage, tmp_path, ROWS)

    def down(key):
        raise StorageError("the store is down")

    monkeypatch.setattr(folder_storage, "get", down)
    before = set(tmp_path.iterdir())
    with pytest.raises(StorageError, match="down"):
        report(mill, folder_storage, job, tmp_path)
    assert set(tmp_path.iterdir()) == before


def test_a_picture_that_is_gone_or_damaged_is_an_image_without_a_copy(
    mill, folder_storage, tmp_path
):
    job = finished_job(mill, folder_storage, tmp_path, ROWS[:1])
    first, second = sorted(folder_storage.list(), key=lambda each: each.key)
    (tmp_path / "objects" / first.key).unlink()
    damaged = tmp_path / "objects" / second.key
    damaged.chmod(0o600)
    damaged.write_bytes(b"no picture")
    result, _ = report(mill, folder_storage, job, tmp_path)
    assert (result.images, result.thumbnails) == (2, 0)


@pytest.mark.parametrize("name", ["report.pdf", "none/report.html"])
def test_a_place_that_takes_no_report_is_refused_first(at_home, tmp_path, name):
    answer = at_home("report", "no-such-job", "-o", tmp_path / name)
    assert answer.code == 2
    assert "report" in answer.err
    assert "no-such-job" not in answer.err


def test_flags_of_copied_commands_are_those_of_run(imagemill):
    flags = set(re.findall(r'"(--[a-z-]+)"', asset("facts.js")))
    assert {"--prompt", "--seeds", "--eta"} <= flags
    known = imagemill("run", "--help").out
    assert [flag for flag in sorted(flags) if f"{flag} " not in known] == []


def test_a_job_without_images_has_a_report(mill, folder_storage, tmp_path):
    job = mill.load("empty", [])
    result, page = report(mill, folder_storage, job, tmp_path)
    assert (result.images, result.requested) == (0, 0)
    [summary] = blocks(page, "summary")
    assert summary["throughput"] is None
    assert summary["histograms"] == []
