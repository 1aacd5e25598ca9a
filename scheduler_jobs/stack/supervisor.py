"""The process behind `imagemill up`: `python -m imagemill.scheduler_jobs.stack.supervisor HOME`.

It starts every service, starts again what dies, and on SIGTERM stops all in order. It says what
it sees in `state.json`, and reads in the folder `parked` which services should stand still. If it
is killed itself, the kernel ends its children, and the next `up` goes on with the same data.
"""

import logging
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from imagemill.db.errors import ImagemillError, UsageError
from imagemill.db.process.grace_period import stop_on_signals
from imagemill.db.process.logs import configure_logging
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.log_files import rotate
from imagemill.scheduler_jobs.stack.plan import Plan
from imagemill.scheduler_jobs.stack.services import Service, stack_services
from imagemill.scheduler_jobs.stack.state import ServiceState, write_state
from imagemill.scheduler_jobs.stack.watch import Watch

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_ROTATE_ROUNDS = 25


class Supervisor:
    """Runs the services of one home until `run` is told to stop."""

    def __init__(self, home: StackHome, services: Collection[Service]) -> None:
        self._home = home
        self._writing = threading.Lock()
        parked = _parked(home)
        self._watches: Mapping[str, Watch] = {
            service.name: Watch(service, home, changed=self._write, parked=service.name in parked)
            for service in services
        }

    def run(self, stop: threading.Event) -> None:
        """Keep everything running until `stop` is set, and then stop it in order."""
        self._write()
        for watch in self._watches.values():
            watch.begin([self._watches[name] for name in watch.service.after])
        rounds = 0
        while not stop.wait(_LOOK_SECONDS):
            parked = _parked(self._home)
            for name, watch in self._watches.items():
                watch.park(name in parked)
            rounds += 1
            if rounds % _ROTATE_ROUNDS == 0:
                rotate(self._home.logs)
        self._stop_all()

    def _stop_all(self) -> None:
        """Stop each service when those that come after it have stopped; several at once."""
        stoppers = {
            name: threading.Thread(target=self._stop_in_turn, args=(name,), name=f"stop {name}")
            for name in self._watches
        }
        for thread in stoppers.values():
            thread.start()
        for thread in stoppers.values():
            thread.join()

    def _stop_in_turn(self, name: str) -> None:
        for watch in self._watches.values():
            if name in watch.service.after:
                watch.join()
        self._watches[name].end()
        self._watches[name].join()

    def _write(self) -> None:
        with self._writing:
            try:
                write_state(self._home, [watch.report for watch in self._watches.values()])
            except OSError as error:  # a full disk must not end the thread that watches a service
                log.warning("can't write %s: %s", self._home.state, error.strerror)


def _parked(home: StackHome) -> frozenset[str]:
    return frozenset(file.name for file in home.parked.iterdir())


def supervise(home: StackHome) -> None:
    """Be the supervisor of a home. Raises `UsageError` if there is one, or nothing to run."""
    plan = Plan.load(home)
    if plan is None:
        raise UsageError(f"nothing was brought up in {home.path}")
    stop = threading.Event()
    stop_on_signals(stop, grace=False)  # its workers may drain for long
    with home.supervised():
        log.info("the supervisor starts in %s", home.path)
        Supervisor(home, stack_services(home, plan)).run(stop)
        log.info("everything is %s", ServiceState.STOPPED)


def main() -> None:
    """The supervisor as a process of its own; its output is its log."""
    configure_logging(Settings.load())
    try:
        supervise(StackHome(path=Path(sys.argv[1])))
    except ImagemillError as error:
        log.error("%s", error)  # noqa: TRY400  # a line for people, no bug to trace
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
