"""Who reaches the gallery: nobody without its token, no page of another origin, no other name."""

from collections.abc import Iterator
from functools import partial

import pytest

from imagemill.db.database import Database
from imagemill.db.storage.folder import FolderStorage
from tests.helpers.http.gallery import ServedGallery, served_gallery
from tests.helpers.template import migrate_quickly

PATHS = ("/", "/jobs/1", "/api/jobs", "/pictures/1", "/thumbnails/1", "/assets/page.css", "/none")


@pytest.fixture
def gallery(sqlite_url: str, folder_storage: FolderStorage) -> Iterator[ServedGallery]:
    database = Database(sqlite_url)
    migrate_quickly(database)
    with served_gallery(database, folder_storage) as served:
        yield served
    database.close()


def test_nothing_is_shown_without_the_token(gallery: ServedGallery) -> None:
    for path in PATHS:
        for cookie in ("", f"{gallery.keys.cookie}=wrong", f"{gallery.keys.cookie}="):
            answer = gallery.ask(path, Cookie=cookie)
            assert answer.status == 403, path
            assert gallery.keys.token not in answer.body.decode()
    for token in ("", "wrong", gallery.keys.token + "x", "é"):
        assert gallery.ask(f"/?token={token.encode().hex()}").status == 403
    # The token is not the cookie: what a proxy's log has of an address opens nothing later.
    assert (
        gallery.ask("/api/jobs", Cookie=f"{gallery.keys.cookie}={gallery.keys.token}").status == 403
    )


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_gets(
    gallery: ServedGallery,
) -> None:
    answer = gallery.ask(f"/?token={gallery.keys.token}")
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert str(gallery.keys.port) in cookie.partition("=")[0]
    gallery.enter()
    assert gallery.ask("/api/jobs").status == 200


def test_another_name_for_this_machine_reaches_nothing(gallery: ServedGallery) -> None:
    gallery.enter()
    for host in ("evil.example", f"evil.example:{gallery.keys.port}", "127.0.0.1.evil.example"):
        assert gallery.ask("/api/jobs", Host=host).status == 403
        assert gallery.ask(f"/?token={gallery.keys.token}", Host=host).status == 403
    assert gallery.ask("/api/jobs", Host=f"localhost:{gallery.keys.port}").status == 200


def test_every_answer_keeps_a_browser_strict(gallery: ServedGallery) -> None:
    refused = gallery.ask("/")
    gallery.enter()
    for answer in (refused, *map(gallery.ask, PATHS)):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers
    page = gallery.ask("/jobs/1").body.decode()
    assert "<script>" not in page
    assert " style=" not in page
    assert " onclick=" not in page


def test_only_the_files_of_the_page_are_served(gallery: ServedGallery) -> None:
    gallery.enter()
    for name in (
        "report.html",
        "body.html",
        "../__init__.py",
        "..%2f__init__.py",
        "%2fetc%2fpasswd",
    ):
        assert gallery.ask(f"/assets/{name}").status == 404


def test_only_the_gallery_s_own_page_may_write(gallery: ServedGallery) -> None:
    wanted = {"tag": "keep", "on": True}
    ask = partial(gallery.ask, "/api/images/1/tags", method="POST", body=wanted)
    assert ask().status == 403  # no cookie
    gallery.enter()
    assert ask().status == 404  # there is no image, but it is asked for
    for header in (
        {"Origin": "http://evil.example"},
        {"Origin": f"http://localhost:{gallery.keys.port}"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ):
        assert ask(**header).status == 403, header


def test_only_reading_is_allowed(gallery: ServedGallery) -> None:
    gallery.enter()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert gallery.ask("/api/jobs", method=method, body={}).status in (403, 405)
