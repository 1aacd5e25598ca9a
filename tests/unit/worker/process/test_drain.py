"""Being told to stop: by a file, by signals, by a notice, by the parent's end.

Each case is a small process of its own, because most of them end it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemill.worker.process.drain import DRAIN_FILE

CHILD = """
import os, sys, threading, time
from imagemill.worker.process.drain import DrainSignal
signal = DrainSignal(seconds=float(sys.argv[1]))
signal.install()
print("ready", os.getpid(), flush=True)
while signal.since is None:
    time.sleep(0.02)
print("told", flush=True)
if sys.argv[2] == "hangs":
    while True:
        time.sleep(0.02)
"""

PARENT = """
import os, sys, time
from pathlib import Path
from imagemill.worker.process import drain
file = drain.prepare_parent()
import signal
def told(number, frame):
    drain.tell_children(seconds=float(sys.argv[1]))
    os.write(1, f"told {file.exists()}\\n".encode())  # the main thread may be inside print
signal.signal(signal.SIGTERM, told)
if len(sys.argv) > 2:
    drain.watch_notice(Path(sys.argv[2]))
print("ready", file, flush=True)
while True:
    time.sleep(0.02)
"""


class Program:
    """A Python program in its own process, of which each line of output can be waited for."""

    def __init__(self, code: str, *arguments: object, drain_file: Path | None = None) -> None:
        environment = os.environ | ({DRAIN_FILE: str(drain_file)} if drain_file else {})
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.first = self.line().split()
        assert self.first[0] == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        return self.process.wait(240)


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.process.kill()
        program.process.wait()
        assert program.process.stdout is not None
        program.process.stdout.close()


def test_a_file_tells_a_child(programs: list[Program], tmp_path: Path) -> None:
    child = Program(CHILD, 600, "ends", drain_file=tmp_path / "drain")
    programs.append(child)
    (tmp_path / "drain").touch()
    assert child.line() == "told"
    assert child.status() == 0


def test_a_signal_tells_a_child(programs: list[Program]) -> None:
    child = Program(CHILD, 600, "ends")
    programs.append(child)
    child.send(signal.SIGTERM)
    assert child.line() == "told"
    assert child.status() == 0


def test_a_second_signal_ends_it_at_once(programs: list[Program]) -> None:
    child = Program(CHILD, 600, "hangs")
    programs.append(child)
    child.send(signal.SIGTERM)
    assert child.line() == "told"
    child.send(signal.SIGTERM)
    assert child.status() == 143


def test_a_child_that_cannot_stop_is_ended_in_time(programs: list[Program]) -> None:
    child = Program(CHILD, 0.5, "hangs")
    programs.append(child)
    child.send(signal.SIGTERM)
    assert child.status() == 143, "it would hang for ever"


@pytest.mark.parametrize("told", [False, True])
def test_a_child_ends_when_its_parent_is_gone(tmp_path: Path, told: bool) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    starter = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path / "child.py"), "600", "hangs"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {DRAIN_FILE: str(tmp_path / "drain"), "PYTHONPATH": str(Path.cwd())},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[1])
    if told:
        (tmp_path / "drain").touch()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 240
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)


def test_the_parent_leaves_the_file_and_ends_at_the_next_signal(programs: list[Program]) -> None:
    parent = Program(PARENT, 600)
    programs.append(parent)
    parent.send(signal.SIGTERM)
    assert parent.line() == "told True"
    parent.send(signal.SIGTERM)
    assert parent.status() == 143
    assert not Path(parent.first[1]).parent.exists(), "its folder is left behind"


def test_the_next_parent_removes_the_folder_of_a_killed_one(
    programs: list[Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed, alive = Program(PARENT, 600), Program(PARENT, 600)
    programs += [killed, alive]
    killed.process.kill()
    killed.process.wait()
    programs.append(next_one := Program(PARENT, 600))
    left = {Path(program.first[1]).parent for program in (alive, next_one)}
    assert set(tmp_path.iterdir()) == left
    alive.send(signal.SIGTERM)
    assert alive.line() == "told True"


def test_a_notice_drains_the_parent(programs: list[Program], tmp_path: Path) -> None:
    parent = Program(PARENT, 600, tmp_path / "notice")
    programs.append(parent)
    (tmp_path / "notice").touch()
    assert parent.line() == "told True"


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
