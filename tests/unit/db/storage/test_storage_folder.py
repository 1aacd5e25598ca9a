"""What only a folder store has to withstand: links, crashes, missing mounts, plain file systems."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from imagemill.db.errors import StorageDenied, StorageError
from imagemill.db.storage import StoredObject
from imagemill.db.storage.folder import INCOMING, FolderStorage

PNG = "image/png"


def test_an_object_is_a_plain_file_where_its_uri_says(folder_storage: FolderStorage):
    folder_storage.put("ab/c.png", b"pixels", media_type=PNG)
    path = Path(unquote(urlsplit(folder_storage.object_uri("ab/c.png")).path))
    assert path.read_bytes() == b"pixels"
    assert path == Path(folder_storage.uri) / "ab" / "c.png"
    assert path.stat().st_nlink == 1


def test_put_creates_the_folder(tmp_path: Path):
    storage = FolderStorage(tmp_path / "new" / "objects")
    assert storage.put("ab/c.png", b"pixels", media_type=PNG)
    assert storage.get("ab/c.png") == b"pixels"


def test_a_folder_that_is_not_there_is_no_empty_store(tmp_path: Path):
    storage = FolderStorage(tmp_path / "not-mounted")
    attempts = (
        lambda: storage.get("ab/c.png"),
        lambda: storage.stat("ab/c.png"),
        lambda: list(storage.list()),
        lambda: storage.delete("ab/c.png"),
        lambda: list(storage.leftovers()),
    )
    for attempt in attempts:
        with pytest.raises(StorageDenied, match="not-mounted does not exist: is it mounted"):
            attempt()


def test_a_linked_folder_inside_the_store_leads_nowhere(
    folder_storage: FolderStorage, tmp_path: Path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (tmp_path / "objects" / "ab").symlink_to(outside)
    attempts = (
        lambda: folder_storage.get("ab/secret.png"),
        lambda: folder_storage.put("ab/c.png", b"pixels", media_type=PNG),
        lambda: folder_storage.delete("ab/secret.png"),
        lambda: folder_storage.stat("ab/secret.png"),
    )
    for attempt in attempts:
        with pytest.raises(StorageDenied, match="symbolic link"):
            attempt()
    assert list(folder_storage.list()) == []
    assert [path.name for path in outside.iterdir()] == ["secret.png"]


def test_a_linked_file_inside_the_store_is_no_object(folder_storage: FolderStorage, tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "objects" / "ab").mkdir()
    (tmp_path / "objects" / "ab" / "c.png").symlink_to(tmp_path / "secret")
    assert list(folder_storage.list()) == []
    assert folder_storage.stat("ab/c.png") is None
    with pytest.raises(StorageDenied):
        folder_storage.get("ab/c.png")
    with pytest.raises(StorageDenied):
        folder_storage.put("ab/c.png", b"pixels", media_type=PNG)
    folder_storage.delete("ab/c.png")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_the_root_itself_may_be_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage = FolderStorage(tmp_path / "link")
    storage.put("ab/c.png", b"pixels", media_type=PNG)
    assert (tmp_path / "real" / "ab" / "c.png").read_bytes() == b"pixels"


def test_files_that_no_key_can_name_are_not_listed(folder_storage: FolderStorage, tmp_path: Path):
    folder_storage.put("ab/c.png", b"pixels", media_type=PNG)
    (tmp_path / "objects" / ".DS_Store").touch()
    (tmp_path / "objects" / "ab" / "my picture.png").touch()
    os.mkfifo(tmp_path / "objects" / "ab" / "pipe")
    assert [item.key for item in folder_storage.list()] == ["ab/c.png"]


CRASHING_WRITER = """
import os, signal, sys
from pathlib import Path
from imagemill.db.storage import folder
real_link = os.link
def link(*args, **kwargs):
    if sys.argv[2] == "after":
        real_link(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
folder.os.link = link
folder.FolderStorage(Path(sys.argv[1])).put("ab/c.png", b"pixels", media_type="image/png")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_writer_killed_around_the_link_leaves_all_or_nothing(
    folder_storage: FolderStorage, moment: str
):
    ended = subprocess.run(
        [sys.executable, "-c", CRASHING_WRITER, folder_storage.uri, moment], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert [item.key for item in folder_storage.list()] == ["ab/c.png"] * (moment == "after")

    (leftover,) = folder_storage.leftovers()
    assert leftover.key.startswith(INCOMING)
    assert leftover.size == len(b"pixels")
    folder_storage.discard(leftover)
    folder_storage.discard(leftover)
    assert list(folder_storage.leftovers()) == []

    assert folder_storage.put("ab/c.png", b"pixels", media_type=PNG) == (moment == "before")
    assert folder_storage.get("ab/c.png") == b"pixels"


def test_only_leftovers_are_discarded(folder_storage: FolderStorage):
    folder_storage.put("ab/c.png", b"pixels", media_type=PNG)
    found = folder_storage.stat("ab/c.png")
    for key in ("ab/c.png", f"{INCOMING}/../ab/c.png", f"{INCOMING}/"):
        crafted = StoredObject(key=key, size=found.size, modified=found.modified)
        with pytest.raises(StorageError, match="not a leftover"):
            folder_storage.discard(crafted)
    assert folder_storage.get("ab/c.png") == b"pixels"


def test_a_file_system_without_hard_links(
    folder_storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
):
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("imagemill.db.storage.folder.os.link", no_links)
    assert "no hard links" in folder_storage.probe()
    with ThreadPoolExecutor(8) as writers:
        created = list(
            writers.map(
                lambda _: folder_storage.put("ab/c.png", b"pixels", media_type=PNG), range(32)
            )
        )
    assert created.count(True) == 1
    assert folder_storage.get("ab/c.png") == b"pixels"
    assert list(folder_storage.leftovers()) == []


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, StorageError, "No space left"),
        (errno.EIO, StorageError, "Input/output error"),
        (errno.EACCES, StorageDenied, "make the folder writable"),
        (errno.EROFS, StorageDenied, "read-only"),
    ],
)
def test_a_failing_disk_is_one_clear_line(
    folder_storage: FolderStorage,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StorageError],
    said: str,
):
    def failing(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("imagemill.db.storage.folder.os.fsync", failing)
        with pytest.raises(StorageError, match=said) as caught:
            folder_storage.put("c.png", b"pixels", media_type=PNG)
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is StorageError)
    assert "c.png" in caught.value.message
    assert list(folder_storage.leftovers()) == []
    assert list(folder_storage.list()) == []


def test_many_puts_and_listings_leave_no_open_files(folder_storage: FolderStorage):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a list of descriptors, no folder
    for number in range(50):
        folder_storage.put(f"ab/{number}.png", b"pixels", media_type=PNG)
        next(folder_storage.list())
        folder_storage.stat(f"ab/{number}.png")
        folder_storage.get(f"ab/{number}.png")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above
