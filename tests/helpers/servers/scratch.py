"""Folders for servers that are gone when their server is, also after a crash.

A folder is locked by a descriptor that its server inherits. When the next test run starts a
server, it removes the folders that nobody locks any more: what a killed run left behind.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "imagemill-test-"
_LOCK = "in-use"


class ScratchFolder:
    """A new folder in the system's temporary folder; `lock` is the descriptor to hand down."""

    def __init__(self, name: str) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
        self.lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete the folder. Its server has ended: never delete a live server's data."""
        if self.path.exists():
            os.close(self.lock)
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
