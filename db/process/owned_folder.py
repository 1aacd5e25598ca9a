"""Temporary folders that go with their process, also when it is killed.

A folder contains a file that its process keeps locked. The kernel ends the lock with the process
and the children that it forked. So whoever makes the next folder sees which ones nobody owns.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWNER = "owner"
"""The file in such a folder that is locked."""

_CONTENT = "content"


def make_folder(prefix: str) -> Path:
    """Make a folder that is this process's until it ends, and remove those of dead processes.

    Its name begins with `prefix`, and it is in the temporary folder. Folders with this prefix that
    have no owner's file, as those of older versions, stay.
    """
    folder, _ = _make(prefix, None)  # the file stays open, which keeps the lock
    return folder


@contextmanager
def temporary_folder(prefix: str, *, within: Path | None = None) -> Iterator[Path]:
    """An empty folder for the time of the block; those of dead processes are removed.

    It is in a folder as `make_folder` makes them, or in one like it `within` another place.
    """
    folder, lock = _make(prefix, within)
    try:
        (folder / _CONTENT).mkdir()
        yield folder / _CONTENT
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(prefix: str, within: Path | None) -> tuple[Path, int]:
    """Make a folder, and lock it by its owner's file, which is open."""
    place = Path(tempfile.gettempdir()) if within is None else within
    _remove_dead(prefix, place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        lock = own(folder)
        if lock is not None:
            return folder, lock


def own(folder: Path) -> int | None:
    """Lock a new folder by its owner's file, which stays open.

    None if somebody took it for a dead process's before, and removed it.
    """
    file = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    if os.fstat(file).st_nlink:
        return file
    os.close(file)
    return None


def _remove_dead(prefix: str, place: Path) -> None:
    """Remove the folders of this user whose processes have ended."""
    for folder in place.glob(f"{prefix}*"):
        with suppress(OSError):  # another process removes it too, or it is another user's
            about = folder.lstat()
            # Nobody else may move a folder of ours there, so the next lines are about this one.
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid():
                remove_if_dead(folder)


def remove_if_dead(folder: Path) -> None:
    """Remove the folder, unless a process has its lock. Raises `OSError`, also if one has."""
    file = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            shutil.rmtree(folder)
    finally:
        os.close(file)
