"""Passwords, keys and tokens: in no output, log, traceback or process list."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.broker.wake_ups import Tokens, make_app
from imagemill.db.database import Database
from imagemill.db.errors import BrokerError, ImagemillError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.processes import forks

DATABASE = "database-hunter2"
BROKER = "broker-hunter2"
KEY = "s3-secret-hunter2"
TOKEN = "hf_hunter2hunter2"
FLOWER = "flower-hunter2"
SECRETS = (DATABASE, BROKER, KEY, TOKEN, FLOWER, "hunter2")

MARK = "TEST_OF_SECRETS"
"""A variable that tells the processes of this test from all others."""

CLOSED = "127.0.0.1:9"
"""Nobody listens on the discard port."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "IMAGEMILL_DATABASE_URL": f"postgresql://app:{DATABASE}@{CLOSED}/mill?passfile={DATABASE}",
        "IMAGEMILL_BROKER_URL": f"redis://:{BROKER}@{CLOSED}/0",
        "IMAGEMILL_STORAGE_URL": "s3://bucket/prefix",
        "IMAGEMILL_S3_ENDPOINT_URL": f"http://{CLOSED}",
        "AWS_ACCESS_KEY_ID": "AKIDENTITY",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "HF_TOKEN": TOKEN,
        "IMAGEMILL_FLOWER_BASIC_AUTH": f"operator:{FLOWER}",
    }


def said(*arguments: str, environment: dict[str, str]) -> str:
    """Everything that a command prints, whatever it ends with."""
    done = forks.run(arguments, environment=environment)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("--verbose", "doctor", "--json"),
        ("--verbose", "migrate"),
        ("--verbose", "dispatcher", "--once"),
    ],
    ids=" ".join,
)
def test_no_command_prints_a_secret(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    output = said(*arguments, environment=environment | {"PGCONNECT_TIMEOUT": "1"})
    assert output
    assert [secret for secret in SECRETS if secret in output] == []


def test_what_is_misspelt_is_not_quoted(environment: dict[str, str]) -> None:
    for name, value in (
        ("IMAGEMILL_DATABASE_URL", f"mysql://app:{DATABASE}@h/x"),
        ("IMAGEMILL_DATABASE_URL", f"app:{DATABASE}"),
        ("IMAGEMILL_STORAGE_URL", f"https://user:{KEY}@host/bucket"),
        ("IMAGEMILL_FLOWER_BASIC_AUTH", FLOWER),
    ):
        command = "flower" if "FLOWER" in name else "doctor" if "STORAGE" in name else "jobs"
        output = said("--verbose", command, environment=environment | {name: value})
        assert "hunter2" not in output


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def test_no_object_says_its_secrets(settings: Settings) -> None:
    database = Database.from_settings(settings)
    tokens = Tokens(settings)
    app = make_app(settings)
    try:
        objects = (settings, database, database.engine, database.url, tokens, app, app.connection())
        for thing in objects:
            for text in (repr(thing), str(thing)):
                assert "hunter2" not in text, type(thing)
    finally:
        tokens.close()
        database.close()


def test_no_error_says_a_secret(settings: Settings) -> None:
    database = Database.from_settings(settings)
    tokens = Tokens(settings)
    raised: list[BaseException] = []
    with pytest.raises(ImagemillError) as caught:
        database.run(lambda session: session.connection(), patience=0)
    raised.append(caught.value)
    with pytest.raises(BrokerError) as refused:
        tokens.publish("default")
    raised.append(refused.value)
    for error in raised:
        for each in _chain(error):
            assert "hunter2" not in f"{each} {each!r}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from, as a traceback would print them."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_a_database_error_says_no_prompt(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    query = text("SELECT :prompt FROM nowhere")
    with pytest.raises(Exception, match="nowhere") as caught:
        database.run(lambda session: session.execute(query, {"prompt": "a private prompt"}))
    assert "a private prompt" not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    database.close()


def test_no_secret_stands_in_the_process_list(environment: dict[str, str], tmp_path: Path) -> None:
    """`flower` replaces itself by Celery; `run` starts a broker and a worker."""
    manifest = tmp_path / "m.csv"
    manifest.write_text("prompt,steps\na red circle on a blue background,2\n")
    imagemill = str(Path(sys.executable).parent / "imagemill")
    commands = {
        "celery_app": [imagemill, "flower", "--port", "1"],
        "valkey": [imagemill, "run", str(manifest), "--out", str(tmp_path / "out")],
    }
    variables = {**os.environ, **environment, MARK: str(tmp_path)}
    processes = {
        last: TetheredProcess(command, environment=variables, log=tmp_path / f"{last}.log")
        for last, command in commands.items()
    }
    seen: set[str] = set()
    deadline = time.monotonic() + 6

    def come(last: str) -> bool:
        """Whether a command is where it was to come, or has ended."""
        return processes[last].poll() is not None or any(last in line for line in seen)

    while time.monotonic() < deadline or not all(map(come, processes)):
        seen |= command_lines(f"{MARK}={tmp_path}".encode())
        time.sleep(0.02)
    for process in processes.values():
        process.stop(seconds=30)
    assert any("flower" in line for line in seen)
    assert any("valkey" in line for line in seen)
    assert [line for line in seen if "hunter2" in line or "requirepass" in line] == []
    for log in (*tmp_path.glob("*.log"), *(tmp_path / "out").rglob("*.log")):
        assert "hunter2" not in log.read_text("utf-8", "replace")
    config = list((tmp_path / "out").rglob("*valkey*.conf"))
    assert all(file.stat().st_mode & 0o077 == 0 for file in config)


def command_lines(mark: bytes) -> set[str]:
    """What everybody on this machine can read of every process with `mark` in its environment.

    Others run here too: a shell that looks for a secret has it in its own command line.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark not in (entry / "environ").read_bytes():
                    continue
                found.add((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (OSError, UnicodeDecodeError):
                continue
    return found
