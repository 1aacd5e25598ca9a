"""Telling the children of a Celery worker to stop.

Celery's own warm shutdown only waits for running tasks, and a shift may run for an hour. A SIGTERM
to the whole process group would end the children at once. So the parent creates a file that the
children look for several times a second. A child that gets a signal itself drains too. A second
signal, or the end of the drain's time, ends it.
"""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from imagemill.db.process.grace_period import GRACE_SECONDS, begin_grace
from imagemill.db.process.owned_folder import OWNER, make_folder

log = logging.getLogger(__name__)

DRAIN_FILE = "IMAGEMILL_DRAIN_FILE"
"""The environment variable that tells the children where to look."""

_LOOK_SECONDS = 0.25

_EXIT_FORCED = 143  # 128 + SIGTERM, as a shell reports it
_EXIT_ORPHAN = 70  # EX_SOFTWARE


def prepare_parent() -> Path:
    """Choose the drain file and tell its path to the children to come. Call it in the parent.

    Folders that killed workers left behind are removed.
    """
    folder = make_folder("imagemill-drain-")
    os.environ[DRAIN_FILE] = str(folder / "drain")
    return folder / "drain"


def tell_children(*, seconds: float) -> None:
    """Ask the children to drain. From now on, another signal ends parent and children at once.

    The children end themselves after `seconds`; soon after, the parent ends too, whatever it waits
    for.
    """
    begin_grace(seconds + GRACE_SECONDS)
    if DRAIN_FILE in os.environ:
        Path(os.environ[DRAIN_FILE]).touch()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_now)


def forget_file() -> None:
    """Remove the drain file and its folder: every child has ended."""
    if DRAIN_FILE in os.environ:
        file = Path(os.environ[DRAIN_FILE])
        for each in (file, file.with_name(OWNER)):
            each.unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()


def watch_notice(file: Path) -> None:
    """Drain this worker, as SIGTERM does, when `file` appears. Call it in the parent."""

    def watch() -> None:
        while not file.exists():
            time.sleep(_LOOK_SECONDS)
        log.warning("%s has appeared: draining", file)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="notice", daemon=True).start()


class DrainSignal:
    """Says whether this child was told to stop. `seconds` later the process ends itself.

    The process also ends at once when its parent is gone. Otherwise a child that nobody supervises
    would go on until its shift is over.
    """

    def __init__(self, *, seconds: float) -> None:
        path = os.environ.get(DRAIN_FILE)
        self._file = Path(path) if path else None
        self._seconds = seconds
        self._told = threading.Event()
        self._since: float | None = None
        self._parent = os.getppid()

    def install(self) -> None:
        """Start to listen. Call it in the main thread, after Celery has reset the signals."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._watch, name="drain", daemon=True).start()

    @property
    def since(self) -> float | None:
        """When this child was told to stop, by the monotonic clock; None if it was not."""
        return self._since

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or this child is told to stop; returns whether it is."""
        return self._told.wait(seconds)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._told.is_set():
            os._exit(_EXIT_FORCED)
        self._tell()

    def _tell(self) -> None:
        if self._since is None:
            self._since = time.monotonic()
        self._told.set()

    def _watch(self) -> None:
        """Run in a thread, so that the deadline also holds while the main thread hangs."""
        deadline: float | None = None
        while deadline is None or time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            if os.getppid() != self._parent:
                os._exit(_EXIT_ORPHAN)
            if self._file is not None and self._file.exists():
                self._tell()
            if deadline is None and self._told.is_set():
                deadline = time.monotonic() + self._seconds
        log.critical("could not stop within %.0f s; ending this process", self._seconds)
        os._exit(_EXIT_FORCED)


def _end_now(_number: int, _frame: FrameType | None) -> None:
    """End the parent. The kernel ends its children with it, as Celery has asked it to."""
    forget_file()
    os._exit(_EXIT_FORCED)
