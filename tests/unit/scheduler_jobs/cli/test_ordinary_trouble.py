"""Ordinary trouble is told as ordinary: one line, no bug, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import DATA

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
    file = DATA / "cases" / "samples0.csv"
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


def test_who_forgets_the_home_is_told_of_those_that_are_here(imagemill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (("jobs",), ("--home", "nothing", "jobs")):
        answer = imagemill(*words)
        assert answer.code == 2
        assert "; --home DIR finds that of `imagemill run --out DIR`, " in answer.err
    for folder, file in (("my pictures", "imagemill.sqlite3"), ("mill", "environment.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    said = imagemill("jobs").err
    assert "; --home mill or --home 'my pictures' finds one that is here, " in said


def test_a_file_that_is_no_database_is_one_line(imagemill, tmp_path):
    (tmp_path / "imagemill.sqlite3").write_bytes(b"this is no database at all" * 100)
    answer = imagemill("--home", tmp_path, "jobs")
    assert answer.code == 2
    assert "this file is no database" in answer.err
    assert "bug" not in answer.err


def test_what_is_missing_hides_no_other_model(imagemill, tmp_path, monkeypatch):
    registry = tmp_path / "models.toml"
    registry.write_text(
        '[models.lucky]\nsource = "gone.safetensors"\nembeddings = { "<l>" = "gone-too" }\n'
        '[adapters]\npixel = "pixel.safetensors"\n'
    )
    monkeypatch.setenv("IMAGEMILL_MODELS", str(registry))
    answer = imagemill("models", "--json")
    assert answer.code == 0, answer.err
    problems = {model["model"]: model["problem"] for model in answer.json["models"]}
    assert problems["shapes64"] is None
    assert problems["lucky"]
    (adapter,) = answer.json["adapters"]
    assert "pixel.safetensors is not there" in adapter["problem"]
    lines = imagemill("models").err.splitlines()
    assert len(lines) == 2, lines


def test_the_doctor_of_a_folder_with_nothing_in_it(imagemill, tmp_path, monkeypatch):
    """Nothing is set up, so nothing is missing: `run` needs no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEMILL_DEVICE", "cpu")
    monkeypatch.setattr(
        "imagemill.scheduler_jobs.cli.commands.operate.checks._device", lambda _: "cpu"
    )
    answer = imagemill("doctor", "--json")
    checks = {check["name"]: check["status"] for check in answer.json["checks"]}
    assert answer.code == 0, answer.out
    assert (checks["database"], checks["broker"], checks["storage"]) == ("note",) * 3
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_two_submissions_ends_well(at_home, manifest, home, monkeypatch):
    """The other one opens the job while this one still loads it."""
    from imagemill.db.database import Database
    from imagemill.db.queries.jobs import lifecycle
    from imagemill.db.settings import Settings
    from imagemill.scheduler_jobs.submit.loader import JobLoader

    add = JobLoader.add

    def late(self, chunk):
        other = Database.from_settings(Settings.for_home(home))
        monkeypatch.setattr(JobLoader, "add", add)
        assert at_home("submit", manifest).code == 0
        other.run(lambda session: lifecycle.open_job(session, self._job_id))
        other.close()
        add(self, chunk)

    monkeypatch.setattr(JobLoader, "add", late)
    answer = at_home("submit", manifest)
    assert answer.code == 0, answer.err
    assert "nothing added: job 1" in answer.out
    assert [job["state"] for job in at_home("jobs", "--json").json["jobs"]] == ["open"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run {manifest} --out {loop}", "there is a file of that name"),
        ("export done --format flat --to {loop}", "Too many levels of symbolic links"),
        ("export done --format flat --to {nowhere}/x", "File exists"),
        ("backup {loop}", "is there already"),
        ("restore {loop}", "no finished backup"),
        ("import {loop}", "Too many levels of symbolic links"),
        ("import {manifest}", "can't be read: Not a directory"),
        ("contact-sheet done -o {loop}.png", "Too many levels of symbolic links"),
        ("plan {manifest} --defaults /dev/zero", "more than 67,108,864 bytes"),
        ("plan {manifest} --defaults {loop}", "Too many levels of symbolic links"),
        ("submit /dev/zero", "a device"),
        ("submit {loop}", "Too many levels of symbolic links"),
    ],
)
def test_links_in_a_circle_and_devices_are_one_line(at_home, manifest, tmp_path, mill, words, said):
    mill.load("done", ["a"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    for name, leads_to in (("loop", "loop"), ("loop.png", "loop.png"), ("nowhere", "not-there")):
        (tmp_path / name).symlink_to(leads_to)
    places = {"manifest": manifest, "loop": tmp_path / "loop", "nowhere": tmp_path / "nowhere"}
    answer = at_home(*(word.format(**places) for word in words.split()))
    assert answer.code == 2, answer.err
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "bug" not in errors[0]


def test_a_registry_whose_link_leads_in_a_circle_is_one_line(imagemill, tmp_path, monkeypatch):
    (tmp_path / "models.toml").symlink_to("models.toml")
    monkeypatch.setenv("IMAGEMILL_MODELS", str(tmp_path / "models.toml"))
    answer = imagemill("models")
    assert answer.code == 2
    assert "Too many levels of symbolic links" in answer.err


def test_a_file_whose_name_is_no_utf8_is_a_manifest(at_home, tmp_path, no_broker):
    file = tmp_path / os.fsdecode(b"caf\xe9.csv")
    file.write_text("prompt\na red circle\n")
    told = at_home("submit", file, "--json").json
    assert (told["job_name"], told["requested"]) == ("caf\ufffd", 1)
    file.write_text("prompt,steps\na red circle,many\n")
    bad = at_home("submit", file, "--json")
    assert (bad.code, bad.json["error"]["code"]) == (2, "manifest")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{manifest}", "--out", "{here}/out\udce9"),
        ("--home", "{here}/out\udce9", "migrate"),
        ("submit", "{manifest}", "--name", "h\udce9"),
        ("export", "latest", "--format", "flat", "--to", "{here}/out\udce9"),
    ],
)
def test_other_names_that_are_no_utf8_are_refused(at_home, manifest, tmp_path, mill, arguments):
    job = mill.load("done", ["a"])
    assert job
    told = [each.format(manifest=manifest, here=tmp_path) for each in arguments]
    answer = at_home(*told)
    assert answer.code == 2
    assert "UTF-8" in answer.err
    assert "bug" not in answer.err
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.commands  # as programs: each imports everything
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_trouble(manifest, tmp_path, closed):
    line = f'exec "{sys.executable}" -P -m imagemill plan "{manifest}" {closed}'
    told = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, b"")
    migrate = f'exec "{sys.executable}" -P -m imagemill --home "{tmp_path}/h" migrate {closed}'
    assert subprocess.run(["bash", "-c", migrate], check=False).returncode == 0
    assert (tmp_path / "h" / "imagemill.sqlite3").read_bytes()[:13] == b"SQLite format"
