"""One of our own commands as a service of a stack."""

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagemill.db.errors import ServiceError
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import LOOPBACK, answers
from imagemill.scheduler_jobs.local.server import Server

_START_SECONDS = 120
_SETTLED_SECONDS = 2.0
"""A program without a port counts as running when it has lived so long: bad settings end it
sooner."""


class Program(Server):
    """`python -m …` with a log. With a `port` (and its address), it runs when that answers."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        port: int | None = None,
        address: str = LOOPBACK,
        stop_seconds: float = 10,
    ) -> None:
        super().__init__(log=log)
        self._arguments = arguments
        self._environment = environment
        self._port = port
        self._address = address
        self._stop_seconds = stop_seconds

    def start(self) -> None:
        """Start it. Raises `ServiceError` if it ends at once, or its port does not answer."""
        self._process = process = TetheredProcess(
            [sys.executable, "-P", "-m", *self._arguments],
            environment=self._environment,
            log=self.log,
            death_signal=signal.SIGTERM,
        )
        started = time.monotonic()
        while process.poll() is None:
            lived = time.monotonic() - started
            if self._port is None and lived > _SETTLED_SECONDS:
                return
            if self._port is not None and answers(self._port, self._address):
                return
            if lived > _START_SECONDS:
                process.kill()
                raise ServiceError(f"port {self._port} did not answer in {_START_SECONDS} s")
            time.sleep(0.1)
        raise ServiceError(self.last_line())

    def stop(self) -> None:
        """Ask it to end, and wait for as long as it may take."""
        if self._process is not None:
            self._process.stop(seconds=self._stop_seconds)
