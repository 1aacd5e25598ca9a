"""Files that are whole or not there, and what is no file."""

import errno
import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemill.db.process.whole_file import whole_file


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond a hundred bytes: as on a full disk, for whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    with whole_file(file) as stream:
        stream.write(b"new")
        assert not file.exists()
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_bytes(b"earlier")
    with pytest.raises(OSError, match=r"answer\.csv") as full, whole_file(file) as stream:
        stream.write(b"x" * 200)
    assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(file))
    assert file.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_one_and_rights_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "answer.csv", tmp_path / "link.csv"
    file.write_bytes(b"earlier")
    file.chmod(0o600)
    link.symlink_to(file)
    with whole_file(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_pipe_is_written_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe) as stream:
        stream.write(b"new")
    reader.join()
    assert read == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("none/x", errno.ENOENT),
        ("n" * 300, errno.ENAMETOOLONG),
        ("file/x", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        (".", errno.EISDIR),
    ],
)
def test_a_place_that_can_not_be_is_named_before_anything_is_written(
    tmp_path: Path, name: str, number: int
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r".") as refused, whole_file(tmp_path / name):
        pytest.fail("it was opened")
    assert refused.value.errno == number
    assert refused.value.filename == str(tmp_path / name)
