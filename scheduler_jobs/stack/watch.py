"""One service, watched by a thread: started in its turn, started again when it dies, stopped."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from imagemill.db.errors import ImagemillError, first_line
from imagemill.scheduler_jobs.local.server import last_line
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.services import Service
from imagemill.scheduler_jobs.stack.state import ServiceReport, ServiceState, now

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""After so long, the next death counts as the first."""


class Watch:
    """The thread of one service. Others may ask for its report at any time."""

    def __init__(
        self, service: Service, home: StackHome, *, changed: Callable[[], None], parked: bool
    ) -> None:
        self.service = service
        self._log = home.log(service.name)
        self._changed = changed
        self._first: Collection[Watch] = ()
        self._parked = parked
        self._over = threading.Event()
        self._pause = _FIRST_PAUSE_SECONDS
        self._restarts = 0
        self._lock = threading.Lock()
        self._report = self._described(ServiceState.WAITING)
        self._thread = threading.Thread(target=self._keep, name=service.name, daemon=True)

    @property
    def report(self) -> ServiceReport:
        """The state of the service."""
        with self._lock:
            return self._report

    @property
    def running(self) -> bool:
        """Whether the service can be used."""
        return self.report.state is ServiceState.RUNNING

    def begin(self, first: Collection["Watch"]) -> None:
        """Start the service when every one of `first` runs."""
        self._first = first
        self._thread.start()

    def park(self, parked: bool) -> None:
        """Stop the service until it is unparked."""
        self._parked = parked

    def end(self) -> None:
        """Ask the service to stop for good. `join` waits for that."""
        self._over.set()

    def join(self) -> None:
        """Wait until the service has stopped."""
        self._thread.join()

    @property
    def _wanted(self) -> bool:
        return not (self._parked or self._over.is_set())

    def _keep(self) -> None:
        while not self._over.is_set():
            if self._parked:
                self._say(ServiceState.STOPPED)
            elif not all(watch.running for watch in self._first):
                self._say(ServiceState.WAITING)
            else:
                self._run()
            self._over.wait(_LOOK_SECONDS)
        self._say(ServiceState.STOPPED)

    def _run(self) -> None:
        """Start it, and return when it has ended or was stopped."""
        program, reason = self.service.program, None
        self._say(ServiceState.STARTING)
        started = time.monotonic()
        try:
            program.start()
        except Exception as error:  # a thread that ended here would never start it again
            if not isinstance(error, ImagemillError | OSError):
                log.exception("%s", self.service.name)
            reason = first_line(error)
            program.stop()  # what a start may have left half done
        else:
            self._say(ServiceState.RUNNING, pid=program.pid)
            while program.running and self._wanted:
                time.sleep(_LOOK_SECONDS)
            if program.running:
                self._say(ServiceState.STOPPING, pid=program.pid)
                program.stop()
                return
            reason = _ending(program.exit_status, self._log)
            program.stop()  # its sockets, and what else an end of its own has left
        self._restart_later(reason, lived=time.monotonic() - started)

    def _restart_later(self, reason: str, *, lived: float) -> None:
        """Wait before the next try: longer each time, so that a broken service costs little."""
        if lived > _STEADY_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS
        self._restarts += 1
        name = self.service.name
        log.warning("%s: %s; it starts again in %.1f s", name, reason, self._pause)
        self._say(ServiceState.RESTARTING, reason=reason)
        give_up = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        while self._wanted and time.monotonic() < give_up:
            time.sleep(_LOOK_SECONDS)

    def _say(
        self, state: ServiceState, *, pid: int | None = None, reason: str | None = None
    ) -> None:
        said = self._described(state, pid=pid, reason=reason)
        with self._lock:
            before = self._report
            if before.state is state:
                return
            self._report = said
        log.info("%s is %s", self.service.name, state)
        self._changed()

    def _described(
        self, state: ServiceState, *, pid: int | None = None, reason: str | None = None
    ) -> ServiceReport:
        return ServiceReport(
            service=self.service.name,
            state=state,
            pid=pid,
            address=self.service.address,
            restarts=self._restarts,
            since=now(),
            reason=reason,
        )


def _ending(status: int | None, log_file: Path) -> str:
    """Why a process is not there any more: the signal that ended it, or its last line."""
    if status is not None and status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"status {status}: {last_line(log_file)}"
