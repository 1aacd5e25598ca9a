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
_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 << 30


class ScratchFolder:
    """A new folder in the system's temporary folder; `lock` is the descriptor to hand down.

    With `in_memory` it is a folder in memory, where there is plenty of it.
    """

    def __init__(self, name: str, *, in_memory: bool = False) -> None:
        _remove_abandoned()
        place = _MEMORY if in_memory and _plenty_of_memory() else None
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=place))
        self.lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete the folder. Its server has ended: never delete a live server's data."""
        if self.path.exists():
            os.close(self.lock)
        shutil.rmtree(self.path, ignore_errors=True)


def _plenty_of_memory() -> bool:
    with suppress(OSError):
        may = os.access(_MEMORY, os.W_OK) and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        return may and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    return False


def _remove_abandoned() -> None:
    places = (Path(tempfile.gettempdir()), _MEMORY)
    for folder in (found for place in places for found in place.glob(f"{_PREFIX}*")):
        with suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
