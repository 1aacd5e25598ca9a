"""Real worker processes for the tests: the Celery worker of production, with the fake engine.

Leases are as long as in production, so that no pause of a busy machine takes one from a process
that lives; `Plant.bury` ends those of the dead at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.specs import ImageSpec
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.mill import Mill, spec
from tests.helpers.processes import forks
from tests.helpers.template import migrate_quickly

_FORKED = {"imagemill", "tests.chaos.worker"}


def eventually(what: Callable[[], object], seconds: float = 180) -> bool:
    """Whether it becomes true within some (generous) time."""
    deadline = time.monotonic() + seconds
    pause = 0.05
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(pause)
        pause = min(0.15, 1.1 * pause)
    return False


def lives(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def runs(process: psutil.Process) -> bool:
    """Whether it is there and no zombie. Another one that has got its number later is not it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(pid: int) -> str:
    """A process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def held(gate: Path, count: int) -> list[ImageSpec]:
    """Images of which none can be finished before there is a file `gate`."""
    return [replace(spec(f"held {gate} {number}"), steps=4) for number in range(count)]


def bury(mill: Mill) -> None:
    """End the leases of processes that have ended, as time would."""
    query = text(
        "SELECT s.id, w.pid FROM shifts s JOIN workers w ON w.id = s.worker_id"
        " WHERE s.ended_at IS NULL"
    )
    with mill.database.reading() as session:
        open_shifts = session.execute(query).all()
    for shift_id, pid in open_shifts:
        if not lives(pid):
            mill.expire(shift_id)


class Program:
    """A module run with `python -m`, leader of a process group of its own; it ends with us.

    Where nothing is special about it, it is a fork of what has imported its modules already.
    `prefix` is a command that runs it elsewhere, such as in another network namespace.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        log: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        self._log = log
        variables = {**os.environ, **environment}
        self._process: forks.Fork | TetheredProcess
        if not prefix and module in _FORKED and forks.suits(environment):
            self._process = forks.start(module, *arguments, environment=variables, output=log)
        else:
            self._process = TetheredProcess(
                [*prefix, sys.executable, "-m", module, *arguments],
                environment=variables,
                log=log,
                death_signal=signal.SIGKILL,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """Everything that it printed."""
        return self._log.read_text()

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def ends(self, seconds: float = 180) -> int:
        """The exit status, once it has ended."""
        return self._process.wait(seconds)

    def stop(self, seconds: float = 60) -> None:
        """Ask it to end, and see to it."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.signal(signal.SIGTERM)
            self.ends(seconds)
        self.close()

    def close(self) -> None:
        """End it and what it started, whatever state they are in."""
        for child in children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if self.alive:
            self._process.kill()


def children(pid: int) -> list[int]:
    """The live child processes of a process."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in found if lives(int(child))]


class Plant:
    """A database with work, a broker and a store, and programs that work on them."""

    def __init__(self, mill: Mill, environment: Mapping[str, str], folder: Path) -> None:
        self.mill = mill
        self.environment = dict(environment)
        self._folder = folder
        self._programs: list[Program] = []

    @property
    def database(self) -> Database:
        return self.mill.database

    def worker(self, *, children: int = 1, **settings: str) -> Program:
        if "metrics_port" in settings:
            # The fake engine imports prometheus_client before the worker has named its folder.
            self.environment["PROMETHEUS_MULTIPROC_DIR"] = str(self._folder)
        return self._start("tests.chaos.worker", "--children", str(children), **settings)

    def dispatcher(self) -> Program:
        return self._start("imagemill", "dispatcher")

    def serve(self, port: int) -> Program:
        return self._start("imagemill", "serve", "--port", str(port))

    def busy_child(self) -> int:
        """The pid of a child that holds images that it has begun to render."""
        query = text(
            "SELECT w.pid FROM workers w JOIN shifts s ON s.worker_id = w.id"
            " JOIN images i ON i.shift_id = s.id WHERE i.begun_at IS NOT NULL"
            " AND s.ended_at IS NULL"
        )
        found: list[int] = []

        def look() -> bool:
            with self.database.reading() as session:
                found[:] = session.scalars(query).all()
            return bool(found)

        assert eventually(look), self.logs
        return found[0]

    def leased(self, job_id: int) -> int:
        return self.mill.counts(job_id).leased

    def bury(self) -> None:
        """End the leases of processes that have ended."""
        bury(self.mill)

    def finishes(self, job_id: int, seconds: float = 240) -> bool:
        """Whether all of a job comes to an end; meanwhile the dead are buried."""

        def finished() -> bool:
            self.bury()
            return self.mill.counts(job_id).pending == 0

        return eventually(finished, seconds)

    @property
    def logs(self) -> str:
        return "\n".join(program.said for program in self._programs)

    def _start(self, module: str, *arguments: str, **settings: str) -> Program:
        environment = self.environment | {f"IMAGEMILL_{k.upper()}": v for k, v in settings.items()}
        log = self._folder / f"{len(self._programs)}-{module}.log"
        program = Program(module, *arguments, environment=environment, log=log)
        self._programs.append(program)
        return program

    def close(self) -> None:
        for program in self._programs:
            program.close()


@contextmanager
def planted(database_url: str, folder: Path, **settings: str) -> Iterator[Plant]:
    """A plant on an empty database, with these settings; at its end the books must balance.

    Where they name no store, it is a folder of its own.
    """
    database = Database(database_url)
    migrate_quickly(database)
    if "storage_url" not in settings:
        (folder / "store").mkdir()
        settings["storage_url"] = str(folder / "store")
    environment = {f"IMAGEMILL_{name.upper()}": value for name, value in settings.items()}
    environment["IMAGEMILL_DATABASE_URL"] = database_url
    plant = Plant(Mill(database), environment, folder)
    try:
        yield plant
    finally:
        plant.close()
    assert plant.mill.audit() == []
    database.close()


def uncharged(mill: Mill, job_id: int) -> Iterator[bool]:
    """For each image of a job: no failure was recorded, and it may have neighbours."""
    for image in mill.images(job_id):
        yield not image.suspect and set(mill.events(image.id)) <= {"done"}
