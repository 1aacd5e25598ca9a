"""Ordinary trouble is told as ordinary: one line, no bug, and nothing left behind."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "shapes.csv"
    file.write_text("prompt\na red circle\n")
    return file


@pytest.mark.parametrize(
    "out", ["/proc/none/out", "{here}/shapes.csv", "{here}/shapes.csv/out", "{here}/" + "n" * 300]
)
def test_a_folder_that_cannot_be_is_one_line(imagemill, manifest, tmp_path, out):
    answer = imagemill("run", manifest, "--out", out.format(here=tmp_path))
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("error: ")
    assert "bug" not in answer.err
    assert sorted(tmp_path.iterdir()) == [manifest]


@pytest.mark.parametrize("flags", [["--model", "nonesuch"], ["--picture-name", "{nonesuch}"]])
def test_a_wrong_flag_leaves_nothing(imagemill, manifest, tmp_path, flags):
    answer = imagemill("run", manifest, "--out", tmp_path / "out", *flags)
    assert answer.code == 2
    assert "nonesuch" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_bad_rows_is_an_error_and_leaves_no_job_open(at_home, imagemill, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text("prompt,samples\na red circle,0\na blue star,0\n")
    assert at_home("submit", file, "--skip-bad-rows").code == 2
    assert at_home("jobs", "--json").json["jobs"] == []
    assert imagemill("run", file, "--skip-bad-rows", "--out", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


def test_watching_without_a_worker_says_so(at_home, manifest, mill):
    mill.load("far", ["a"], route="80gb")
    mill.cancel(1)
    assert at_home("watch", "far").code == 1
    job = mill.load("done", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    answer = at_home("watch", job)
    assert answer.code == 0
    assert "finished: 1 image done" in answer.out


def test_an_unknown_setting_is_named(imagemill, tmp_path):
    file = tmp_path / "imagemill.toml"
    file.write_text("colour = 1\n")
    answer = imagemill("--config", file, "jobs")
    assert answer.code == 2
    assert "there is no setting colour" in answer.err


def test_the_script_of_passwords_knows_help(tmp_path):
    script = ROOT / "deploy" / "make-env.sh"
    for option, code in (("--help", 0), ("--nonsense", 2)):
        done = subprocess.run(
            ["sh", script, option], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert "usage: " in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_one_line(imagemill, tmp_path):
    (tmp_path / "imagemill.sqlite3").write_bytes(b"this is no database at all" * 100)
    answer = imagemill("--home", tmp_path, "jobs")
    assert answer.code == 2
    assert "this file is no database" in answer.err
    assert "bug" not in answer.err
