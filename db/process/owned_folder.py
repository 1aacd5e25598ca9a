"""Temporary folders that go with their process, also when it is killed.

A folder contains a file that its process keeps locked. The kernel ends the lock with the process
and the children that it forked. So whoever makes the next folder sees which ones nobody owns.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

OWNER = "owner"
"""The file in such a folder that is locked."""


def make_folder(prefix: str) -> Path:
    """Make a folder that is this process's until it ends, and remove those of dead processes.

    Its name begins with `prefix`, and it is in the temporary folder. Folders with this prefix that
    have no owner's file, as those of older versions, stay.
    """
    _remove_dead(prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        if _own(folder):
            return folder


def _own(folder: Path) -> bool:
    """Lock a new folder until this process ends; False if it was taken for a dead one's before."""
    file = os.open(folder / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    if os.fstat(file).st_nlink:
        return True  # the file stays open, which keeps the lock
    os.close(file)
    return False


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
