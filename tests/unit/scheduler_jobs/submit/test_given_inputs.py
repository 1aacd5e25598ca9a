"""Pictures that flags name: local files anywhere, and images that were rendered."""

import hashlib
import json

import pytest
from PIL import Image as Picture

from imagemill.db.broker import wake_ups
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import fetch_input
from tests.engine.pictures import encoded
from tests.helpers.mill import sha, stored
from tests.helpers.pretended import Broker

PICTURE = encoded(Picture.new("RGB", (8, 8), "red"))
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


def no_pictures(folder):
    (folder / "notes.png").write_text("a red circle")
    (folder / "half.png").write_bytes(PICTURE[:-20])
    (folder / "deep.png").write_bytes(encoded(Picture.new("I;16", (8, 8))))
    (folder / "large.png").write_bytes(encoded(Picture.new("1", (8192, 4096))))


@pytest.mark.parametrize(
    ("name", "found", "allowed"),
    [
        ("notes.png", "not a readable image", "PNG, JPEG, WEBP"),
        ("half.png", "not a readable image: ", "PNG, JPEG, WEBP"),
        ("deep.png", "an input image of mode I;16", "8 bits a channel"),
        ("large.png", "an input image of 8192x4096", "16,777,216 pixels in all"),
    ],
)
def test_a_row_names_a_picture_that_workers_read(
    at_home, home, mill, tmp_path, monkeypatch, name, found, allowed
):
    """Else the job would be queued, and end in the worker."""
    no_pictures(tmp_path)
    monkeypatch.setenv("IMAGEMILL_INPUTS_FOLDER", str(tmp_path))
    manifest = tmp_path / "m.jsonl"
    for column in ("init_image", "mask"):
        row = {"prompt": "x", "init_image": "fine.png", column: name}
        (tmp_path / "fine.png").write_bytes(PICTURE)
        manifest.write_text(json.dumps(row))
        for command in ("plan", "submit"):
            answer = at_home(command, manifest)
            assert answer.code == 2
            [said] = [line for line in answer.err.splitlines() if f"{column}: " in line]
            assert f"m.jsonl:1: {column}: {name}, {found}" in said
            assert said.endswith(f"; {allowed}")
    assert at_home("jobs", "--json").json["jobs"] == []


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("image:37", "no image 37 is done"),
        ("no-such.png", "there is no such file"),
        (".", "it is not a file"),
        (sha("nothing"), "is not in the store"),
        ("n" * 300, "can't be read"),
        ("notes.png", "--init-image notes.png: not a readable image; allowed: PNG, JPEG, WEBP"),
        ("half.png", "--init-image half.png: not a readable image: "),
        ("deep.png", "--init-image deep.png: an input image of mode I;16; allowed: 8 bits a"),
    ],
)
def test_what_is_no_picture_is_one_line(
    at_home, home, mill, manifest, tmp_path, monkeypatch, name, complaint
):
    (home / "objects").mkdir()
    no_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
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
