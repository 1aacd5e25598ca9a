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
    folder, _ = _make(prefix)  # the file stays open, which keeps the lock
    return folder


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """An empty folder for the time of the block; those of dead processes are removed.

    It is in a folder as `make_folder` makes them.
    """
    folder, lock = _make(prefix)
    try:
        (folder / _CONTENT).mkdir()
        yield folder / _CONTENT
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(prefix: str) -> tuple[Path, int]:
    """Make a folder, and lock it by its owner's file, which is open."""
    _remove_dead(prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _own(folder)
        if lock is not None:
            return folder, lock


def _own(folder: Path) -> int | None:
    """Lock a new folder; None if somebody took it for a dead process's before, and removed it."""
    file = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    if os.fstat(file).st_nlink:
        return file
    os.close(file)
    return None


def _remove_dead(prefix: str) -> None:
    """Remove the folders of this user whose processes have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another process removes it too, or it is another user's
            about = folder.lstat()
            # Nobody else may move a folder of ours there, so the next lines are about this one.
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid():
                _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    """Remove the folder, unless a process has its lock. Raises `OSError`, also if one has."""
    file = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            shutil.rmtree(folder)
    finally:
        os.close(file)
