"""How commands end: one line for every error, the right exit code, never a traceback."""

import gzip
import io
import os
import resource
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagemill.db.errors import StorageDenied
from imagemill.scheduler_jobs.cli.commands.look import jobs as job_commands


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("status", "nothing-like-it"), 2, "unknown_job"),
        (("status", "7"), 2, "unknown_job"),
        (("status", "9" * 30), 2, "unknown_job"),
        (("show", "12345"), 2, "unknown_image"),
        (("show", "0"), 2, "usage"),
        (("show", "9" * 30), 2, "usage"),
        (("show", "x"), 2, "usage"),
        (("watch",), 2, "usage"),
        (("images", "--limit", "0"), 2, "usage"),
        (("images", "--after", "-1"), 2, "usage"),
        (("jobs", "--state", "lost"), 2, "usage"),
        (("status", "\udcff"), 2, "usage"),
        (("retry", "x"), 2, "unknown_job"),
        (("nonsense",), 2, "usage"),
        (("status", "--nonsense"), 2, "usage"),
        (("plan", "no-such-file.csv"), 2, "manifest"),
        (("submit", "s3://"), 2, "manifest"),
        (("contact-sheet", "x"), 2, "unknown_job"),
    ],
)
def test_errors_are_one_line_with_a_stable_code(at_home, arguments, code, error):
    answer = at_home(*arguments)
    assert answer.code == code
    assert sum(line.startswith("error: ") for line in answer.err.splitlines()) == 1
    assert answer.out == ""

    told = at_home(*arguments, "--json")
    assert told.code == code
    assert told.json["error"]["code"] == error
    assert told.json["error"]["message"]


@pytest.fixture
def no_room():
    """No file may grow beyond its room: as on a full disk, for whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(most_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_no_temporary_file_finds_room_is_the_disk_s_fault(
    imagemill, tmp_path, monkeypatch, no_room
):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(tempfile, "tempdir", None)
    # Opened like this, a pipe has a writer at once. Nothing is read of it, so none has to write.
    with os.fdopen(os.open(pipe, os.O_RDWR)):
        no_room(0)
        answer = imagemill("plan", pipe)
    assert answer.code == 3
    assert answer.err.splitlines() == [
        "error: no temporary folder can be written: the disk is full, or TMPDIR names a wrong place"
    ]


def test_an_unpacked_manifest_without_room_is_not_called_damaged(imagemill, tmp_path, no_room):
    body = io.BytesIO()
    pq.write_table(pa.table({"prompt": [f"a circle {n}" for n in range(2000)]}), body)
    (tmp_path / "m.parquet.gz").write_bytes(gzip.compress(body.getvalue()))
    no_room(1000)
    answer = imagemill("plan", tmp_path / "m.parquet.gz")
    assert answer.code == 3, answer.err
    assert answer.err.splitlines() == [f"error: {tempfile.gettempdir()}: File too large"]


def test_a_database_that_is_not_there_is_not_created(imagemill, tmp_path):
    answer = imagemill("--home", tmp_path, "jobs")
    assert answer.code == 2
    assert "imagemill migrate" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_needs_a_migration(imagemill, tmp_path):
    (tmp_path / "imagemill.sqlite3").touch()
    answer = imagemill("--home", tmp_path, "jobs", "--json")
    assert (answer.code, answer.json["error"]["code"]) == (2, "schema")


def test_migrate_creates_the_database_and_may_be_repeated(imagemill, tmp_path):
    home = tmp_path / "new" / "home"
    for _ in range(2):
        answer = imagemill("--home", home, "migrate", "--json")
        assert answer.code == 0
        assert answer.json["revision"]
    assert imagemill("--home", home, "jobs").code == 0


def test_a_database_that_does_not_answer_is_a_service_error(imagemill, monkeypatch):
    monkeypatch.setenv(
        "IMAGEMILL_DATABASE_URL", "postgresql+psycopg://me:opensesame@127.0.0.1:1/nothing"
    )
    answer = imagemill("jobs", "--json")
    assert (answer.code, answer.json["error"]["code"]) == (3, "database")
    assert "opensesame" not in answer.err + answer.out


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        ("models", "IMAGEMILL_SLOTS", "many"),
        ("jobs", "IMAGEMILL_DATABASE_URL", "no url at all"),
        ("jobs", "IMAGEMILL_DATABASE_URL", "mysql://me:opensesame@host/name"),
    ],
)
def test_a_wrong_setting_is_named(imagemill, monkeypatch, command, variable, value):
    monkeypatch.setenv(variable, value)
    answer = imagemill(command, "--json")
    assert (answer.code, answer.json["error"]["code"]) == (2, "settings")
    assert variable in answer.err
    assert "opensesame" not in answer.err


def test_a_config_file_that_is_not_there_is_an_error(imagemill, tmp_path):
    answer = imagemill("--config", tmp_path / "none.toml", "samplers")
    assert answer.code == 2
    assert "none.toml" in answer.err


def test_a_config_file_is_read(imagemill, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(f'database_url = "sqlite:///{tmp_path}/mine.sqlite3"\n')
    assert imagemill("--config", config, "migrate").code == 0
    assert (tmp_path / "mine.sqlite3").is_file()


def test_a_config_file_that_is_no_toml_is_one_line(imagemill, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("database_url = \n")
    answer = imagemill("--config", config, "jobs", "--json")
    assert (answer.code, answer.json["error"]["code"]) == (2, "settings")
    assert "mine.toml" in answer.err


def test_a_bug_is_one_line_too(at_home, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("something\nunforeseen")

    monkeypatch.setattr(job_commands.reports, "list_jobs", fail)
    answer = at_home("jobs", "--json")
    assert answer.code == 70
    assert answer.json["error"]["code"] == "bug"
    assert "something unforeseen" in answer.err
    assert answer.err.count("\n") == 1


def test_errors_of_services_have_their_own_exit_code(at_home, monkeypatch):
    def refuse(*args, **kwargs):
        raise StorageDenied("no\x1b[31m entry")

    monkeypatch.setattr(job_commands.reports, "list_jobs", refuse)
    answer = at_home("jobs", "--json")
    assert (answer.code, answer.json["error"]["code"]) == (3, "storage_denied")
    assert "\x1b" not in answer.err


def test_a_reader_that_goes_away_ends_the_command_quietly():
    """As in `imagemill samplers | head -1`."""
    command = [sys.executable, "-m", "imagemill", "samplers"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(mill, home):
    """As `imagemill images | head -1`: no traceback, no complaint, and a shell's code for it."""
    mill.load("job", ["a red circle"])
    command = [sys.executable, "-m", "imagemill", "--home", str(home), "images"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "80"}
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate()
    assert (process.returncode, said) == (141, b"")
