"""The gallery's answers on both databases and both stores: pages, filters, pictures, comparison."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from imagemill.db.storage import Storage
from imagemill.db.tables import Score
from imagemill.scheduler_jobs.gallery import image_query
from tests.helpers.dataset import finished_job
from tests.helpers.hostile import HOSTILE_PROMPTS
from tests.helpers.http.gallery import ServedGallery, served_gallery
from tests.helpers.mill import Mill

ROWS = [
    {
        "prompt": f"A fox number {n}",
        "id": f"p{n}",
        "rating": n / 2,
        "mood": ["calm", 1, True][n % 3],
    }
    for n in range(5)
] + [{"prompt": "final refused", "id": "dead"}]


@pytest.fixture
def job(mill: Mill, storage: Storage, tmp_path: Path) -> int:
    return finished_job(mill, storage, tmp_path, ROWS, samples=1)


@pytest.fixture
def gallery(mill: Mill, storage: Storage) -> Iterator[ServedGallery]:
    with served_gallery(mill.database, storage) as served:
        served.enter()
        yield served


def found(gallery: ServedGallery, job: int, *conditions: Any, **asked: Any) -> list[str]:
    """The row keys of all images that an answer after the other gives."""
    keys, after = [], None
    while True:
        given = asked | {"conditions": json.dumps(conditions)} | ({"after": after} if after else {})
        page = gallery.ask(f"/api/jobs/{job}/images?{urlencode(given)}").json
        keys += [image["row_key"] for image in page["images"]]
        after = page["after"]
        if after is None:
            return keys


def test_words_and_values_find_images(gallery: ServedGallery, job: int) -> None:
    assert len(found(gallery, job)) == 6
    assert found(gallery, job, words="FOX 3") == ["p3"]
    assert found(gallery, job, words="%") == []
    assert found(gallery, job, {"name": "state", "value": "dead"}) == ["dead"]
    assert found(gallery, job, {"name": "error_code", "value": "input_image"}) == ["dead"]
    assert found(gallery, job, {"name": "extras.mood", "value": "calm"}) == ["p0", "p3"]
    assert found(gallery, job, {"name": "extras.mood", "value": 1}) == ["p1", "p4"]
    assert found(gallery, job, {"name": "extras.mood", "value": True}) == ["p2"]
    rated = {"name": "extras.rating", "low": 0.5, "high": 1.5}
    assert found(gallery, job, rated, words="fox") == ["p1", "p2"]
    assert found(gallery, job, {"name": "size", "value": "64x64"}, words="#") == []


def test_pages_go_on_where_the_last_one_ended(
    gallery: ServedGallery, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_query, "PAGE", 2)
    monkeypatch.setattr(image_query, "MOST_LOOKED_AT", 2)
    assert found(gallery, job) == ["p0", "p1", "p2", "p3", "p4", "dead"]
    # Images that are looked through in vain end an answer too, which then is empty.
    assert found(gallery, job, {"name": "extras.rating", "low": 2, "high": 3}) == ["p4"]


def test_the_summary_is_that_of_the_report(gallery: ServedGallery, job: int) -> None:
    summary = gallery.ask("/api/jobs/latest").json
    assert summary["job"]["job_id"] == job
    assert summary["failures"][0]["code"] == "input_image"
    assert {"steps", "extras.mood", "extras.rating"} <= {h["name"] for h in summary["histograms"]}
    assert gallery.ask("/api/jobs").json[0]["job_name"] == "set"


def test_pictures_are_the_stored_bytes_and_say_nothing_of_the_store(
    gallery: ServedGallery, job: int, storage: Storage
) -> None:
    page = gallery.ask(f"/api/jobs/{job}/images")
    image = page.json["images"][0]
    for place in (storage.uri, "s3://", "file://", "objects/"):
        assert place.encode() not in page.body
    whole = gallery.ask(f"/pictures/{image['image_id']}?v={image['sha256']}")
    assert whole.headers["content-type"] == "image/png"
    assert "immutable" in whole.headers["cache-control"]
    assert "sandbox" in whole.headers["content-security-policy"]
    assert hashlib.sha256(whole.body).hexdigest() == image["sha256"]
    small = gallery.ask(f"/thumbnails/{image['image_id']}")
    assert small.headers["cache-control"] == "no-store"
    with Image.open(io.BytesIO(small.body)) as copy:
        assert copy.size == (64, 64)
    dead = gallery.ask(f"/api/jobs/{job}/images?words=refused").json["images"][0]
    assert gallery.ask(f"/pictures/{dead['image_id']}").status == 404
    assert gallery.ask("/pictures/99999999999999999999999").status == 404


def test_a_file_that_is_not_the_recorded_one_is_not_sent(
    gallery: ServedGallery, job: int, storage: Storage
) -> None:
    image = gallery.ask(f"/api/jobs/{job}/images").json["images"][0]
    [stored] = [each for each in storage.list() if image["sha256"] in each.key]
    storage.delete(stored.key)
    storage.put(stored.key, b"<script>another</script>", media_type="image/png")
    assert gallery.ask(f"/pictures/{image['image_id']}").status == 404
    storage.delete(stored.key)
    assert gallery.ask(f"/thumbnails/{image['image_id']}").status == 404


def test_two_jobs_are_compared_by_row_key_and_sample(
    gallery: ServedGallery, mill: Mill, storage: Storage, tmp_path: Path, job: int
) -> None:
    changed = [{**row, "steps": 3} for row in ROWS[1:]]
    other = finished_job(mill, storage, tmp_path, changed, name="other", samples=1)
    images = gallery.ask(f"/api/jobs/{job}/images?with={other}").json["images"]
    assert images[0]["other"] is None
    assert [image["other"]["row_key"] for image in images[1:]] == [
        *("p1", "p2", "p3", "p4", "dead"),
    ]
    assert {image["other"]["steps"] for image in images[1:]} == {3}
    ids = ",".join(str(image["image_id"]) for image in images[:2])
    again = gallery.ask(f"/api/images?ids={ids}&with={other}").json["images"]
    assert again == images[:2]
    assert gallery.ask(f"/api/jobs/{job}/images?with=none").status == 404


NO_QUESTIONS = [
    "/api/jobs/1/images?after=x",
    "/api/jobs/1/images?after=-1",
    "/api/jobs/1/images?conditions=x",
    "/api/jobs/1/images?conditions={}",
    "/api/jobs/1/images?conditions=[1]",
    '/api/jobs/1/images?conditions=[{"name":"steps","low":"x"}]',
    "/api/jobs/1/images?conditions=" + "[" * 5000,
    "/api/images?ids=x",
    "/api/images?ids=99999999999999999999",
    "/api/jobs/%00",
    "/api/jobs/1/images?words=%00",
    "/api/jobs/1/images?with=%00",
    '/api/jobs/1/images?conditions=[{"name":"model","value":"%5cu0000"}]',
    '/api/jobs/1/images?conditions=[{"name":"model","value":"%5cud800"}]',
]


def test_a_question_that_is_none_is_refused(gallery: ServedGallery, job: int) -> None:
    assert job
    for asked in NO_QUESTIONS:
        assert gallery.ask(asked.replace('"', "%22")).status == 400, asked[:60]


def test_hostile_prompts_are_data(
    gallery: ServedGallery, mill: Mill, storage: Storage, tmp_path: Path
) -> None:
    rows = [{"prompt": text, "id": f"h{n}"} for n, text in enumerate(HOSTILE_PROMPTS)]
    job = finished_job(mill, storage, tmp_path, rows, name="hostile", samples=1)
    answer = gallery.ask(f"/api/jobs/{job}/images")
    assert answer.headers["content-type"] == "application/json"
    assert [image["prompt"] for image in answer.json["images"]] == list(HOSTILE_PROMPTS)
    for path in ("/jobs/no-such", "/api/jobs/%3Cscript%3E"):
        shown = gallery.ask(path)
        assert b"<script>no" not in shown.body
        assert "html" not in shown.headers["content-type"] or shown.status == 200


def test_tags_are_given_taken_shown_counted_and_found(
    gallery: ServedGallery, mill: Mill, job: int
) -> None:
    image = gallery.ask(f"/api/jobs/{job}/images").json["images"][0]["image_id"]
    place = f"/api/images/{image}/tags"
    for tag, on, tags in (
        ("keep", True, ["keep"]),
        ("a", True, ["a", "keep"]),
        ("a", False, ["keep"]),
    ):
        assert gallery.ask(place, method="POST", body={"tag": tag, "on": on}).json == {"tags": tags}
    assert gallery.ask(f"/api/images?ids={image}").json["images"][0]["tags"] == ["keep"]
    assert found(gallery, job, {"name": "tags", "value": "keep"}) == ["p0"]
    [tags] = [h for h in gallery.ask(f"/api/jobs/{job}").json["histograms"] if h["name"] == "tags"]
    assert [(bar["value"], bar["images"]) for bar in tags["bars"]] == [("keep", 1)]
    for body in (
        {},
        [],
        {"tag": "no tag", "on": True},
        {"tag": "x" * 65, "on": True},
        {"tag": None, "on": True},
        {"tag": "a", "on": "no"},
        {"tag": "a", "on": True, "off": True},
    ):
        assert gallery.ask(place, method="POST", body=body).status == 400
    assert gallery.ask(f"/api/images?ids={image}").json["images"][0]["tags"] == ["keep"]
    wanted = {"tag": "keep", "on": True}
    assert gallery.ask(place, method="POST", body=wanted, Origin="http://[::1").status == 403
    assert gallery.ask("/api/images/999999/tags", method="POST", body=wanted).status == 404
    long = {"tag": "x" * 100_000, "on": True}
    assert gallery.ask(place, method="POST", body=long).status == 413


def test_scores_are_shown_spread_and_found(gallery: ServedGallery, mill: Mill, job: int) -> None:
    images = gallery.ask(f"/api/jobs/{job}/images").json["images"][:5]
    rows = [
        Score(
            image_id=image["image_id"],
            name="sharpness",
            scorer="s",
            version="1",
            generation=1,
            value=float(n),
            text=None,
        )
        for n, image in enumerate(images)
    ]
    mill.database.run(lambda session: session.add_all(rows))
    again = gallery.ask(f"/api/jobs/{job}/images").json["images"]
    assert again[1]["scores"] == {"sharpness": 1.0}
    assert found(gallery, job, {"name": "scores.sharpness", "low": 3, "high": 9}) == ["p3", "p4"]
    names = {each["name"] for each in gallery.ask(f"/api/jobs/{job}").json["histograms"]}
    assert "scores.sharpness" in names


def test_images_come_in_the_order_of_a_score(
    gallery: ServedGallery, mill: Mill, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_query, "PAGE", 2)
    images = gallery.ask(f"/api/jobs/{job}/images").json["images"]
    images += gallery.ask(f"/api/jobs/{job}/images?after={images[-1]['image_id']}").json["images"]
    values = [0.1, 1e300, 0.1, -2.5]
    rows = [
        Score(
            image_id=image["image_id"],
            name="clip",
            scorer="s",
            version="1",
            generation=1,
            value=value,
            text=None,
        )
        for image, value in zip(images, values, strict=True)
    ]
    mill.database.run(lambda session: session.add_all(rows))
    assert found(gallery, job, score="clip") == ["p1", "p2", "p0", "p3"]
    assert found(gallery, job, score="clip", ascending=1) == ["p3", "p0", "p2", "p1"]
    assert found(gallery, job, score="clip", words="fox 2") == ["p2"]
    mood = {"name": "extras.mood", "value": "calm"}
    assert found(gallery, job, mood, score="clip", ascending=1) == ["p3", "p0"]
    assert found(gallery, job, score="none") == []
    for after in ("1", "x:1", "1.0:x", ":1", "1.0:99999999999999999999"):
        assert gallery.ask(f"/api/jobs/{job}/images?score=clip&after={after}").status == 400
