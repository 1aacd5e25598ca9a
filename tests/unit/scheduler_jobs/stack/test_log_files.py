"""Log files of a stack: kept small, read from their end, followed."""

import errno
import shutil
from itertools import islice
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.stack.log_files import follow, last_lines, rotate


def test_a_long_file_is_cut_while_it_is_written(tmp_path: Path):
    file = tmp_path / "worker-1.log"
    (tmp_path / "short.log").write_text("a line\n")
    with file.open("a") as writer:
        for number in range(6):
            writer.write(f"{number}\n" * 100)
            writer.flush()
            rotate(tmp_path, most_bytes=100)
        writer.write("last\n")
    assert file.read_text() == "last\n"
    kept = sorted(each.name for each in tmp_path.iterdir())
    assert kept == ["short.log", "worker-1.log", *(f"worker-1.log.{n}" for n in (1, 2, 3))]
    assert (tmp_path / "worker-1.log.1").read_text() == "5\n" * 100
    assert (tmp_path / "worker-1.log.3").read_text() == "3\n" * 100


def test_on_a_full_disk_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(source: Path, copy: Path) -> None:
        copy.write_text(source.read_text()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", half)
    (tmp_path / "a.log").write_text("new\n" * 100)
    (tmp_path / "a.log.1").write_text("old\n")
    rotate(tmp_path, most_bytes=100)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.log": "new\n" * 100,
        "a.log.1": "old\n",
    }


def test_the_last_lines(tmp_path: Path):
    file = tmp_path / "a.log"
    assert last_lines(file, 3) == []
    file.write_text("1\n2\n3\n4\n")
    assert last_lines(file, 3) == ["2", "3", "4"]
    assert last_lines(file, 0) == []


def test_following_goes_on_after_a_rotation(tmp_path: Path):
    files = {name: tmp_path / f"{name}.log" for name in ("a", "b")}
    files["a"].write_text("old\n")
    lines = follow(files)

    def told(name: str, text: str, count: int) -> list[tuple[str, str]]:
        with files[name].open("a") as file:
            file.write(text)
        return list(islice(lines, count))

    assert told("a", "first\nhal", 1) == [("a", "first")]
    assert told("a", "f\n", 1) == [("a", "half")]
    assert told("b", "other\n", 1) == [("b", "other")]
    files["a"].write_text("")
    next_lines = told("b", "more\n", 1)
    assert next_lines == [("b", "more")]
    assert told("a", "new\n", 1) == [("a", "new")]
