"""`imagemill run` from manifest to pictures, as a newcomer meets it."""

import hashlib
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from imagemill.scheduler_jobs.submit.first_rows import LOOKED_AT
from tests.e2e.commands import dataset_images, imagemill, last_json
from tests.helpers.processes import forks
from tools.shapes64.score import score_pictures

MANIFEST = """prompt
a red circle on a blue background
a green star on a white background
a yellow square on a black background
a purple ring on an orange background
a white heart on a green background
a blue triangle on a yellow background
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("manifest") / "shapes.csv"
    file.write_text(MANIFEST)
    return file


@pytest.fixture(scope="module")
def home(tmp_path_factory, manifest) -> Path:
    """A folder in which the manifest was rendered, two samples a row."""
    out = tmp_path_factory.mktemp("run") / "out"
    summary = last_json(imagemill("run", manifest, "--out", out, "--samples", "2", "--json"))
    assert summary["requested"] == summary["rendered"] == summary["done"] == 12
    assert summary["dead"] == summary["reused"] == 0
    assert Path(summary["output"]) == out
    return out


def images_of(home: Path) -> list[dict]:
    return dataset_images(f"sqlite:///{home / 'imagemill.sqlite3'}")


def test_every_image_is_one_file_whose_hashes_are_those_in_the_database(home):
    images = images_of(home)
    assert {image["state"] for image in images} == {"done"}
    files = {path for path in (home / "objects").rglob("*") if path.is_file()}
    assert len(files) == len(images) == 12
    for image in images:
        file = home / "objects" / image["object_key"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == image["sha256"]
        pixels = Image.open(file).convert("RGB").tobytes()
        assert hashlib.sha256(pixels).hexdigest() == image["pixels_sha256"]


def test_the_pictures_show_what_the_manifest_says(home):
    images = images_of(home)
    pictures = [Image.open(home / "objects" / image["object_key"]) for image in images]
    score = score_pictures(pictures, [image["prompt"] for image in images])
    assert score.background >= 0.9
    assert score.colour >= 0.9
    assert score.kind >= 0.8


def test_the_contact_sheet_is_there(home):
    with Image.open(home / "contact-sheet.png") as sheet:
        assert sheet.width > 600


def pictures(folder: Path) -> dict[str, int]:
    """Every readable name with the inode of its file."""
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_every_picture_has_a_readable_name_which_is_a_link_to_its_file(home):
    named = pictures(home / "pictures")
    assert len(named) == 12
    assert "0001-a-red-circle-on-a-blue-background-s0.png" in named
    stored = {path.stat().st_ino for path in (home / "objects").rglob("*.png")}
    assert set(named.values()) == stored


def test_the_same_manifest_again_renders_nothing(home, manifest):
    named = pictures(home / "pictures")
    again = last_json(imagemill("run", manifest, "--out", home, "--samples", "2", "--json"))
    assert again["rendered"] == 0
    assert again["done"] == 12
    assert len(images_of(home)) == 12
    assert pictures(home / "pictures") == named


def test_an_edited_row_renders_one_image_and_reuses_the_others(home, manifest, tmp_path):
    edited = tmp_path / "edited.csv"
    edited.write_text(MANIFEST.replace("a purple ring", "a purple diamond"))
    summary = last_json(imagemill("run", edited, "--out", home, "--samples", "2", "--json"))
    assert summary["rendered"] == 2
    assert summary["reused"] == 10
    # The second job of a folder has pictures and a sheet of its own.
    assert len(pictures(home / "pictures")) == 12
    assert "0004-a-purple-diamond-on-an-orange-background-s1.png" in pictures(home / "pictures-2")
    assert (home / "contact-sheet-2.png").is_file()


def test_home_addresses_what_the_run_left(home):
    status = last_json(imagemill("--home", home, "status", "1", "--json"))
    assert "done" in str(status)
    listed = imagemill("--home", home, "images", "1", "--limit", "3").stdout
    assert "a red circle" in listed


def test_a_bad_row_is_named_and_nothing_is_queued(tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt,steps\na red circle,20\na blue star,many\n")
    done = imagemill("run", bad, "--out", tmp_path / "out", code=2)
    assert "bad.csv:2: steps: " in done.stderr
    assert not (tmp_path / "out").exists()


def with_a_bad_row_after_the_first_ones(folder: Path) -> Path:
    file = folder / "late.csv"
    rows = [f"a red circle {number},20" for number in range(LOOKED_AT + 50)]
    file.write_text("\n".join(["prompt,steps", *rows, "a blue star,many", ""]))
    return file


@pytest.mark.parametrize("already", [None, "notes.txt"])
def test_a_bad_row_far_down_leaves_nothing_either(tmp_path, already):
    out = tmp_path / "new" / "out"
    if already:
        out.mkdir(parents=True)
        (out / already).write_text("mine")
    late = with_a_bad_row_after_the_first_ones(tmp_path)
    done = imagemill("run", late, "--out", out, code=2)
    assert f"late.csv:{LOOKED_AT + 51}: steps: " in done.stderr
    if already:
        assert [path.name for path in out.iterdir()] == [already]
    else:
        assert not (tmp_path / "new").exists()


def test_a_bad_row_far_down_leaves_the_other_jobs_of_a_folder_alone(home, tmp_path):
    before = last_json(imagemill("--home", home, "jobs", "--json"))
    files = sorted(home.rglob("*"))
    late = with_a_bad_row_after_the_first_ones(tmp_path)
    imagemill("run", late, "--out", home, code=2)
    assert last_json(imagemill("--home", home, "jobs", "--json")) == before
    assert set(files) <= set(home.rglob("*"))
    refused = last_json(imagemill("--home", home, "jobs", "--state", "rejected", "--json"))
    assert [job["message"] for job in refused["jobs"]] == [f"{late}: 1 bad row"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, manifest):
    for samples in (8, 32, 128):  # more, where this test was too late to interrupt a run
        run = ["run", str(manifest), "--out", str(tmp_path / f"{samples}"), "--steps", "10"]
        run += ["--samples", str(samples)]
        before = _interrupted(tmp_path / f"{samples}", run)
        if before < 6 * samples:
            break
    assert before < 6 * samples, "it was done before it could be interrupted"
    summary = last_json(imagemill(*run, "--json"))
    assert summary["done"] == summary["requested"] == 6 * samples
    assert summary["rendered"] == 6 * samples - before


def _interrupted(out: Path, run: list[str]) -> int:
    """How many images a run has made that is interrupted after its first ones."""
    log = out.with_suffix(".log")
    process = forks.start("imagemill", *run, environment=os.environ, output=log)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            time.sleep(0.2)
            database = out / "imagemill.sqlite3"
            if database.exists() and any(i["state"] == "done" for i in _images_if_any(out)):
                break
        with suppress(ProcessLookupError):  # it has come to its end
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(240) in (130, 0), log.read_text()
    finally:
        process.kill()
    return sum(image["state"] == "done" for image in images_of(out))


def _images_if_any(out: Path) -> list[dict]:
    try:
        return images_of(out)
    except Exception:
        return []  # the schema is just being made
