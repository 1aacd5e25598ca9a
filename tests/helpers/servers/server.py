"""What every server process of the tests can do, whatever it serves."""

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.servers.scratch import ScratchFolder


class Server(ABC):
    """A process with a scratch folder that goes with it; a context manager, started on entry.

    `start` sets `_process`, and returns when the server answers.
    """

    polite_signal: ClassVar[signal.Signals]
    """What ends it in good order, or SIGKILL where that takes too long."""

    def __init__(self, name: str) -> None:
        self._scratch = ScratchFolder(name)
        self._process: TetheredProcess | None = None

    @abstractmethod
    def start(self) -> None: ...

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self._scratch.path / "server.log"

    def kill(self) -> None:
        """As a crash would; the data stays."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """At the same address, with the same data."""
        self._end()
        self.start()

    def stop(self) -> None:
        """End it and remove its data."""
        self._end()
        self._scratch.remove()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(self.polite_signal)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
