"""The worker of a run is told to stop once, and ends while the run goes on."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.worker import LocalWorker

# It drains at a first signal, and a second one ends it at once.
PROGRAM = """
import os, signal, sys, time
def drain(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    sys.exit(7)
signal.signal(signal.SIGTERM, drain)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWorker:
    """A worker whose program is the one above; it drains once there is a file `go`."""

    def start(self: LocalWorker) -> tuple[TetheredProcess, int]:
        log, (reading, writing) = tmp_path / "said", os.pipe()
        os.close(reading)
        process = TetheredProcess(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "go")],
            log=log,
            death_signal=signal.SIGKILL,
        )
        while not log.read_text():
            time.sleep(0.01)
        return process, writing

    monkeypatch.setattr(LocalWorker, "_start", start)
    return LocalWorker(Settings(), tmp_path / "log")


def test_it_ends_while_others_go_on(worker: LocalWorker, tmp_path: Path):
    with worker, worker.drained():
        worker.work(Settings())
        worker.drain()
        assert worker._process.poll() is None, "nobody has waited for it"
        worker.drain()
        (tmp_path / "go").touch()
    assert worker._process.poll() == 7, "one signal alone has reached it"


def test_an_error_drains_it_too(worker: LocalWorker, tmp_path: Path):
    (tmp_path / "go").touch()

    def fail() -> None:
        with worker, worker.drained():
            worker.work(Settings())
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert worker._process.poll() == 7


def test_without_work_there_is_nothing_to_drain(worker: LocalWorker):
    with worker, worker.drained():
        worker.drain()
        worker.wait()
    assert worker._process.poll() == -signal.SIGKILL
