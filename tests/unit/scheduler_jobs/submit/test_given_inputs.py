"""Pictures that flags name: local files anywhere, and images that were rendered."""

import hashlib

import pytest

from imagemill.db.broker import wake_ups
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import fetch_input
from tests.helpers.mill import sha, stored
from tests.helpers.pretended import Broker

PICTURE = b"a picture, as far as submitting goes"
DIGEST = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture(autouse=True)
def broker(monkeypatch):
    monkeypatch.setattr(wake_ups, "Tokens", Broker)


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("prompt\na red circle\n")
    return file


def kept(home) -> bytes:
    return fetch_input(open_storage(Settings.for_home(home)), DIGEST)


def asked_for(at_home) -> dict:
    return at_home("show", "1", "--json").json["image"]["specification"]


@pytest.mark.parametrize("named", ["absolute", "relative", "beside"])
def test_any_local_file_is_an_init_image(
    at_home, home, mill, manifest, tmp_path, monkeypatch, named
):
    folder = tmp_path / "else where"
    folder.mkdir()
    (folder / "start.png").write_bytes(PICTURE)
    monkeypatch.chdir(folder)
    beside = tmp_path / "beside"
    beside.mkdir()
    names = {
        "absolute": folder / "start.png",
        "relative": "start.png",
        "beside": "../else where/start.png",
    }
    if named == "beside":
        monkeypatch.chdir(beside)
    flags = ["--init-image", names[named], "--strength", 0.5]
    planned = at_home("plan", manifest, *flags, "--json")
    assert planned.json["bad_rows"] == 0, planned.out
    assert not (home / "objects" / "inputs").exists(), "a plan keeps nothing"
    assert at_home("submit", manifest, *flags).code == 0
    assert asked_for(at_home)["init_image"] == DIGEST
    assert kept(home) == PICTURE


def test_another_file_of_the_same_name_is_another_job(at_home, mill, manifest, tmp_path):
    file = tmp_path / "start.png"
    jobs = []
    for body in (PICTURE, PICTURE, PICTURE + b"!"):
        file.write_bytes(body)
        told = at_home("submit", manifest, "--init-image", file, "--strength", 0.5, "--json")
        jobs.append(told.json["job_id"])
    assert jobs == [1, 1, 2]


def test_a_rendered_image_is_an_init_image(at_home, home, mill, manifest):
    mill.load("first", ["a ring"])
    shift = mill.shift()
    [image] = mill.claim(shift)
    mill.complete(shift, [image])
    key = stored(image.request_key).object_key
    open_storage(Settings.for_home(home)).put(key, PICTURE, media_type="image/png")
    told = at_home("submit", manifest, "--init-image", f"image:{image.id}", "--strength", 0.5)
    assert told.code == 0, told.err
    assert at_home("show", "2", "--json").json["image"]["specification"]["init_image"] == DIGEST
    assert kept(home) == PICTURE


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("image:37", "no image 37 is done"),
        ("no-such.png", "there is no such file"),
        (".", "it is not a file"),
        (sha("nothing"), "is not in the store"),
        ("n" * 300, "can't be read"),
    ],
)
def test_what_is_no_picture_is_one_line(at_home, home, mill, manifest, name, complaint):
    (home / "objects").mkdir()
    answer = at_home("submit", manifest, "--init-image", name, "--strength", 0.5)
    assert answer.code == 2
    assert complaint in answer.err
    assert at_home("jobs", "--json").json["jobs"] == []


def test_a_row_may_still_name_only_what_it_may(at_home, mill, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE)
    manifest = tmp_path / "m.csv"
    for name in (secret, "image:1", "../secret.png"):
        manifest.write_text(f"prompt,init_image,strength\na circle,{name},0.5\n")
        answer = at_home("plan", manifest, "--json")
        assert answer.code == 2, name
        assert answer.json["bad_rows"] == 1
