"""Temporary folders that go with their process, also when it is killed."""

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagemill.db.process.owned_folder import OWNER, make_folder, temporary_folder

PREFIX = "of-a-test-"

PROGRAM = f"""
import os, sys, time
from imagemill.db.process.owned_folder import make_folder
print(make_folder("{PREFIX}"), flush=True)
if "forks" in sys.argv and os.fork():
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
"""

Start = Callable[..., tuple[subprocess.Popen[str], Path]]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process with such a folder; it goes on until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def one(*words: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert process.stdout.readline() == "ready\n"
        return process, folder

    yield one
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def test_the_next_process_removes_the_folder_of_a_killed_one(start: Start) -> None:
    process, folder = start()
    (folder / "more").touch()
    process.kill()
    process.wait()
    assert folder.exists()
    mine = make_folder(PREFIX)
    assert not folder.exists()
    assert sorted(path.name for path in mine.iterdir()) == [OWNER]


def test_the_folder_of_a_live_process_stays(start: Start) -> None:
    _, folder = start()
    mine = make_folder(PREFIX)
    other = make_folder(PREFIX)
    assert {folder, mine, other} == set(folder.parent.iterdir())


def test_a_child_keeps_the_folder_of_its_parent(start: Start) -> None:
    process, folder = start("forks")
    assert process.wait() == 0
    make_folder(PREFIX)
    assert folder.exists()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert not process.stdout.read(), "the child has ended"
    make_folder(PREFIX)
    assert not folder.exists()


def test_what_has_no_owners_file_stays(temporary: Path) -> None:
    """Folders of an older version, whose worker may live, and what is not ours at all."""
    older = temporary / f"{PREFIX}older"
    older.mkdir()
    (older / "drain").touch()
    file = temporary / f"{PREFIX}file"
    file.touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER).touch()
    link = temporary / f"{PREFIX}link"
    link.symlink_to(elsewhere)
    linked = temporary / f"{PREFIX}linked"
    linked.mkdir()
    (linked / OWNER).symlink_to(elsewhere / OWNER)
    before = set(temporary.rglob("*"))
    mine = make_folder(PREFIX)
    assert set(temporary.rglob("*")) == before | {mine, mine / OWNER}


def test_a_folder_that_was_removed_before_it_was_locked_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else may look between the two steps, and see nobody's folder."""
    lock, removed = fcntl.flock, []

    def late(file: int, operation: int) -> None:
        if not removed:
            monkeypatch.setattr(fcntl, "flock", lock)
            folder = Path(f"/proc/self/fd/{file}").readlink().parent
            make_folder(PREFIX)
            removed.append(folder)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    mine = make_folder(PREFIX)
    assert mine not in removed
    assert not removed[0].exists()
    assert (mine / OWNER).exists()


def test_the_folder_of_a_block_is_empty_and_goes_with_it(temporary: Path, start: Start) -> None:
    dead, left = start()
    dead.kill()
    dead.wait()
    with temporary_folder(PREFIX) as folder:
        assert not left.exists()
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
        with temporary_folder(PREFIX):
            assert (folder / "file").exists()
    assert not list(temporary.glob(f"{PREFIX}*"))


def test_a_block_leaves_no_open_file() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with temporary_folder(PREFIX):
        pass
    assert set(Path("/proc/self/fd").iterdir()) == before
