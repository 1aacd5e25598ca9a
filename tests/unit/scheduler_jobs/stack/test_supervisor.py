"""The supervisor with small programs: order, restarts, and services that stand still."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagemill.db.errors import ServiceError, UsageError
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.server import Server
from imagemill.scheduler_jobs.stack import watch
from imagemill.scheduler_jobs.stack.control import wait_until_up
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.services import Service
from imagemill.scheduler_jobs.stack.state import ServiceReport, read_state
from imagemill.scheduler_jobs.stack.supervisor import Supervisor, supervise

PATIENCE_SECONDS = 240


class Sleeper(Server):
    """A program that does nothing, and notes when it starts and stops."""

    def __init__(
        self,
        name: str,
        events: list[str],
        home: StackHome,
        *,
        fails: int = 0,
        error: Exception | None = None,
    ) -> None:
        super().__init__(log=home.log(name))
        self._name = name
        self._events = events
        self.fails = fails
        """How often it still fails to start."""
        self._error = error or ServiceError("no luck")

    def start(self) -> None:
        if self.fails:
            self.fails -= 1
            raise self._error
        self._events.append(f"start {self._name}")
        code = "import time; time.sleep(600)"
        self._process = TetheredProcess([sys.executable, "-I", "-c", code], log=self.log)

    def stop(self) -> None:
        self._events.append(f"stop {self._name}")
        super().stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackHome:
    monkeypatch.setattr(watch, "_FIRST_PAUSE_SECONDS", 0.1)
    found = StackHome(path=tmp_path / "home")
    found.make()
    return found


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def run(home: StackHome) -> Iterator[Callable[..., Callable[[], None]]]:
    """Run services in a thread; what is returned stops them."""
    stop, threads = threading.Event(), []

    def start(*services: Service) -> Callable[[], None]:
        supervisor = Supervisor(home, services)
        thread = threading.Thread(target=supervisor.run, args=(stop,))
        threads.append(thread)
        thread.start()
        wait_for(home.state.exists)
        return end

    def end() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    with home.supervised():
        yield start
        end()


def report(home: StackHome, name: str) -> ServiceReport:
    return next(each for each in read_state(home) if each.service == name)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_workers_stop_before_what_they_need(home, events, run):
    stop = run(
        Service(name="worker", program=Sleeper("worker", events, home), after=("queue", "store")),
        Service(name="store", program=Sleeper("store", events, home)),
        Service(name="queue", program=Sleeper("queue", events, home), after=("store",)),
    )
    wait_for(lambda: report(home, "worker").state == "running")
    stop()
    assert events == [
        *("start store", "start queue", "start worker"),
        *("stop worker", "stop queue", "stop store"),
    ]
    assert {each.state for each in read_state(home)} == {"stopped"}


def test_what_dies_starts_again(home, events, run):
    run(Service(name="store", program=Sleeper("store", events, home), address="here"))
    wait_for(lambda: report(home, "store").state == "running")
    killed = report(home, "store").pid
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: report(home, "store").restarts == 1)
    wait_for(lambda: report(home, "store").state == "running")
    assert report(home, "store").pid != killed
    assert report(home, "store").address == "here"


def test_what_does_not_start_is_tried_again_and_says_why(home, events, run):
    store = Sleeper("store", events, home, fails=1000)
    run(
        Service(name="store", program=store),
        Service(name="queue", program=Sleeper("queue", events, home), after=("store",)),
    )
    wait_for(lambda: report(home, "store").reason == "no luck")
    wait_for(lambda: report(home, "store").restarts >= 2)
    assert report(home, "queue").state == "waiting"
    store.fails = 0
    wait_for(lambda: report(home, "queue").state == "running")
    assert "start queue" in events[events.index("start store") :]


def test_an_error_that_nobody_foresaw_is_tried_again_too(home, events, run):
    error = subprocess.TimeoutExpired(["psql"], 120)
    run(Service(name="store", program=Sleeper("store", events, home, fails=1, error=error)))
    wait_for(lambda: report(home, "store").state == "running")
    assert report(home, "store").restarts == 1
    assert events == ["stop store", "start store"], "what was left half done is stopped first"


def test_a_state_that_can_not_be_written_ends_nothing(home, events, run, monkeypatch):
    run(Service(name="store", program=Sleeper("store", events, home)))
    wait_for(lambda: report(home, "store").state == "running")
    first = report(home, "store").pid

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("imagemill.scheduler_jobs.stack.supervisor.write_state", full)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: events.count("start store") == 2)
    (home.parked / "store").touch()
    wait_for(lambda: report(home, "store").state == "stopped")


def test_up_waits_for_a_service_that_was_stopped_by_its_name(home, events, run):
    (home.parked / "queue").touch()
    run(
        Service(name="store", program=Sleeper("store", events, home)),
        Service(name="queue", program=Sleeper("queue", events, home)),
    )
    wait_until_up(home, lambda reports: None)
    assert report(home, "queue").state == "stopped", "which nobody wants to run"
    (home.parked / "queue").unlink()
    wait_until_up(home, lambda reports: None)
    assert report(home, "queue").state == "running"


def test_a_parked_service_stands_still(home, events, run):
    (home.parked / "queue").touch()
    run(
        Service(name="store", program=Sleeper("store", events, home)),
        Service(name="queue", program=Sleeper("queue", events, home)),
    )
    wait_for(lambda: report(home, "store").state == "running")
    wait_for(lambda: report(home, "queue").state == "stopped")
    assert events == ["start store"]
    (home.parked / "queue").unlink()
    wait_for(lambda: report(home, "queue").state == "running")
    (home.parked / "store").touch()
    wait_for(lambda: report(home, "store").state == "stopped")
    assert report(home, "queue").state == "running"


def test_a_home_has_one_supervisor(home: StackHome):
    assert home.supervisor_pid() is None
    with home.supervised():
        assert home.supervisor_pid() == os.getpid()
        with pytest.raises(UsageError, match="has a supervisor"), home.supervised():
            pass
    assert home.supervisor_pid() is None


def test_a_home_without_a_plan_has_nothing_to_run(home: StackHome):
    with pytest.raises(UsageError, match="nothing was brought up"):
        supervise(home)


def test_after_a_killed_supervisor_everything_counts_as_stopped(home, events, run):
    stop = run(Service(name="store", program=Sleeper("store", events, home)))
    wait_for(lambda: report(home, "store").state == "running")
    written = home.state.read_text()
    stop()
    home.state.write_text(written)
    home.lock.unlink()
    assert report(home, "store").state == "stopped"
    assert report(home, "store").pid is None
    assert report(home, "store").reason == "the supervisor was killed"
