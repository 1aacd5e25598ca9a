"""The worker process of `imagemill run`. It imports its libraries before there is work for it."""

import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Self

from imagemill.db.errors import ServiceError, UsageError
from imagemill.db.labels import has_all, label_text, workers_labels
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.server import last_line
from imagemill.scheduler_jobs.local.warm_process import start_warm

log = logging.getLogger(__name__)

_MOST_RESTARTS = 3
"""How often a worker that has ended is started again before the run gives up."""

_ERROR_MARKS = (" ERROR ", " CRITICAL ", '"level": "ERROR"', '"level": "CRITICAL"')
"""The marks of a line with an error, in both log formats."""


def check_takes(settings: Settings, *, route: str, needs: Mapping[str, str]) -> None:
    """Raise `UsageError` for a job that the worker of a run would leave to others for ever."""
    if route != settings.route:
        raise UsageError(
            f"the job is for workers of the route {route}, and the one of `run` is of the route "
            f"{settings.route} (IMAGEMILL_ROUTE)"
        )
    if not has_all(workers_labels(settings.labels), needs):
        raise UsageError(
            f"the job needs a worker with {label_text(needs)}, and the one of `run` has "
            f"{settings.labels or 'no labels'} (IMAGEMILL_LABELS)"
        )


class _State(Enum):
    WARM = "without orders"
    WORKING = "working"
    DRAINING = "told to stop"


class LocalWorker:
    """A worker that starts with the block, waits for its orders, and ends with the block.

    It ends with this process too. `settings` are those of which it must know before it works: the
    device. What it prints before `work` is lost; whatever went wrong then goes wrong again.
    `early` is its process where that runs already, with settings that agree so far.
    """

    def __init__(
        self, settings: Settings, log_file: Path, early: tuple[TetheredProcess, int] | None = None
    ) -> None:
        self.settings = settings
        self._log = log_file
        self._restarts = 0
        self._state = _State.WARM
        self._early = early

    def __enter__(self) -> Self:
        self._process, self._pipe = self._early or self._start()
        return self

    def __exit__(self, *_: object) -> None:
        # Without orders it holds nothing, so nothing is lost.
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        self._process.kill()

    def work(self, settings: Settings) -> None:
        """Let it work with these settings, until `drain`."""
        self.settings = settings
        self._state = _State.WORKING
        self._order()

    def drain(self) -> None:
        """Tell it to stop, and go on meanwhile. Safe to repeat."""
        # The worker would end at once on a second signal.
        if self._state == _State.WORKING:
            self._state = _State.DRAINING
            self._process.send(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it has drained; a second Ctrl-C of an impatient user does not stop that."""
        if self._state == _State.DRAINING:
            with suppress(KeyboardInterrupt):
                self._process.wait_or_kill(self.settings.drain_seconds + 5)

    @contextmanager
    def drained(self) -> Iterator[None]:
        """At the end of the block it has drained, if it was at work."""
        try:
            yield
        finally:
            self.drain()
            self.wait()

    def check(self) -> None:
        """Start the worker again if it has ended. Raises `ServiceError` if it keeps ending."""
        with suppress(TimeoutExpired):
            status = self._process.wait(0)
            if self._restarts >= _MOST_RESTARTS:
                raise ServiceError(
                    f"the worker ended {self._restarts + 1} times (status {status}); "
                    f"{self.last_error()}"
                )
            log.warning("the worker ended with status %s; starting it again", status)
            self._restarts += 1
            self._process, self._pipe = self._start()
            self._order()

    def last_error(self) -> str:
        """Where the worker's log is, and the last error in it, or else its last line."""
        lines = self._log.read_text("utf-8", "replace").splitlines() if self._log.exists() else []
        errors = [line for line in lines if any(mark in line for mark in _ERROR_MARKS)]
        # A worker that can't even start has no log lines: Python or the command said why.
        said = errors[-1] if errors else last_line(self._log)
        return f"the worker's log is {self._log}: {said}"

    def _start(self) -> tuple[TetheredProcess, int | None]:
        """A process, and the end of a pipe for its orders."""
        return start_warm(os.environ | self.settings.environment())

    def _order(self) -> None:
        assert self._pipe is not None
        orders = {"environment": self.settings.environment(), "log": str(self._log)}
        # A process that has ended already can't read. `check` sees that.
        with suppress(BrokenPipeError), os.fdopen(self._pipe, "wb") as pipe:
            pipe.write(json.dumps(orders).encode())
        self._pipe = None
