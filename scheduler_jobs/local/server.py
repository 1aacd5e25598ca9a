"""What a database's or a store's process can do, whatever it serves.

`imagemill up` and the tests start the same servers from the same wheels. Only their folders, ports
and passwords differ.
"""

import fcntl
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from imagemill.scheduler_jobs.local.child_process import TetheredProcess


class FolderLock:
    """A lock on a server's folder. The server inherits it, so it lasts until both have ended."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._handle: int | None = None

    @property
    def handles(self) -> tuple[int, ...]:
        """What the server's process keeps open."""
        return () if self._handle is None else (self._handle,)

    def take(self, seconds: float) -> bool:
        """Lock it; False if another process still holds it after `seconds`. Safe to repeat."""
        if self._handle is not None:
            return True
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    os.close(handle)
                    return False
                time.sleep(0.05)
            else:
                self._handle = handle
                return True

    def release(self) -> None:
        """Let go of it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Server(ABC):
    """A server with its data in a folder; as a context manager it is started on entry.

    `start` sets `_process`, and returns when the server answers. `inherit` are file descriptors
    that the process keeps, such as a lock on its folder.
    """

    polite_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """The signal that ends it in good order."""

    stop_seconds: ClassVar[float] = 10
    """How long that may take before it is killed."""

    def __init__(self, *, log: Path, inherit: Sequence[int] = ()) -> None:
        self.log = log
        self._inherit = inherit
        self._process: TetheredProcess | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers. Raises `ServiceError` if it does not."""

    @property
    def pid(self) -> int | None:
        """The process id; None if it was never started."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How its process ended, as `Popen.poll` says it; None while it runs."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """End it as a crash would; the data stays."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Start it again at the same address, with the same data."""
        self._end()
        self.start()

    def stop(self) -> None:
        """End it in good order; nothing happens if it has ended."""
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(self.polite_signal, seconds=self.stop_seconds)

    def last_line(self) -> str:
        """The last line of its log, to say why it did not start."""
        return last_line(self.log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def last_line(log: Path) -> str:
    """The last line of a log file that is not empty."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return "it said nothing"
