"""A tethered process ends with the process that started it, in whatever way that ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.child_process import TetheredProcess

SLEEP = ["/bin/sleep", "600"]

PARENT = """
import sys, threading, time
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
started = []
thread = threading.Thread(target=lambda: started.append(TetheredProcess(["/bin/sleep", "600"])))
thread.start()
# A signal in the middle of a thread's start can leave Python 3.13.0 waiting for that thread.
thread.join()
print(started[0].pid, flush=True)
if sys.argv[1] == "waits":
    time.sleep(600)
time.sleep(1)
"""


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie that nobody reaps counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < give_up, f"process {pid} is still there"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_its_parent_is_killed(number: signal.Signals):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "waits"], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
    wait_for_end(child)


def test_it_ends_when_its_parent_just_returns():
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, "returns"], capture_output=True, check=True
    )
    wait_for_end(int(parent.stdout))


def test_it_outlives_the_thread_that_started_it():
    started = []
    thread = threading.Thread(target=lambda: started.append(TetheredProcess(SLEEP)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert started[0].poll() is None
    started[0].stop()
    assert started[0].poll() == -signal.SIGTERM


def test_its_thread_ends_with_it():
    before = set(threading.enumerate())  # those of the tests before may still be ending
    process = TetheredProcess(SLEEP)
    (thread,) = set(threading.enumerate()) - before
    assert thread.name == "tether of sleep"
    process.kill()
    thread.join(120)
    assert not thread.is_alive()
    process.kill()
    process.stop()


def test_one_that_ignores_the_signal_is_killed(tmp_path: Path):
    log = tmp_path / "log"
    stubborn = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
    process = TetheredProcess(["/bin/sh", "-c", stubborn], log=log)
    while not log.read_text():
        time.sleep(0.01)
    process.stop(seconds=0.2)
    assert process.poll() == -signal.SIGKILL


def test_it_leads_its_own_session_in_its_folder_with_its_environment(tmp_path: Path):
    log = tmp_path / "log"
    script = 'pwd; echo "$NAME"; read -r line < /proc/$$/stat; echo "$line"'
    process = TetheredProcess(
        ["/bin/sh", "-c", script],
        folder=tmp_path,
        environment={"NAME": "value", "PATH": os.environ["PATH"]},
        log=log,
    )
    assert process.wait(120) == 0
    folder, name, status = log.read_text().splitlines()
    assert (folder, name) == (str(tmp_path), "value")
    session = int(status.rpartition(")")[2].split()[3])  # see proc_pid_stat(5)
    assert session == process.pid


def test_a_program_that_is_not_there(tmp_path: Path):
    process = TetheredProcess([str(tmp_path / "nothing")], log=tmp_path / "log")
    assert process.wait(120) != 0
    assert "FileNotFoundError" in (tmp_path / "log").read_text()
    with pytest.raises(NotADirectoryError):
        TetheredProcess(SLEEP, folder=Path("/dev/null"))
