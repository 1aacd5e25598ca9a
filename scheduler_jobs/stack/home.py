"""The folder of a stack: what is where in it, and which process holds it.

Everything in it is for its owner alone: the folder has mode 0700, and files with passwords 0600.
Where root starts PostgreSQL as another user, the folder has mode 0711: that user may pass through
it to the data, and sees nothing else.
"""

import fcntl
import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imagemill.db.errors import ServiceError, UsageError
from imagemill.db.given_settings import DATABASE_FILE, ENVIRONMENT_FILE
from imagemill.scheduler_jobs.local.postgres import runs_as_other_user

_LOOK_SECONDS = 0.05
_PROBE_SECONDS = 1.0
"""How long a supervisor tries to get its lock. A process that asks whether a supervisor runs holds
it for an instant."""


def default_home() -> Path:
    """The default folder of a stack: the place for a user's data by the XDG specification.

    For root it is the place for a system's data, because nobody else can enter root's own folder.
    """
    usual = Path("/var/lib") if os.geteuid() == 0 else Path.home() / ".local" / "share"
    return Path(os.environ.get("XDG_DATA_HOME") or usual) / "imagemill"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackHome:
    """The files and folders of one stack; `path` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: Path | None) -> "StackHome":
        """The home that the user named, or the default."""
        return cls(path=(path or default_home()).absolute())

    @property
    def command(self) -> str:
        """How a command for this stack begins: `imagemill`, or `imagemill --home DIR`."""
        named = "" if self.path == default_home() else f" --home {shlex.quote(str(self.path))}"
        return f"imagemill{named}"

    @property
    def plan(self) -> Path:
        """What was asked for, the ports, and every password."""
        return self.path / "stack.json"

    @property
    def environment(self) -> Path:
        """The variables for people's commands, as `imagemill env` prints them."""
        return self.path / ENVIRONMENT_FILE

    @property
    def settings(self) -> Path:
        """The user's settings file as the services read it."""
        return self.path / "imagemill.toml"

    @property
    def state(self) -> Path:
        """What the supervisor last said of each service."""
        return self.path / "state.json"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it lives; it contains its process id."""
        return self.path / "supervisor.lock"

    @property
    def parked(self) -> Path:
        """A file for each service that was stopped by its name."""
        return self.path / "parked"

    @property
    def logs(self) -> Path:
        """A log file for each service."""
        return self.path / "logs"

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.logs / f"{service}.log"

    def make(self) -> None:
        """Create the folder. Raises `UsageError` if something else is there, or if it can't be."""
        if (self.path / DATABASE_FILE).exists():
            raise UsageError(
                f"{self.path} is the folder of `imagemill run`; name another with --home"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {each.name for each in self.path.iterdir()}
            # Another `up` may be making the same home now, and has not written its plan yet.
            foreign = {name for name in names - _MADE_FIRST if not name.startswith(".stack.json.")}
            if foreign and self.plan.name not in names:
                raise UsageError(f"{self.path} has other files in it; name another with --home")
            self.path.chmod(0o711 if runs_as_other_user() else 0o700)
            for folder in (self.logs, self.parked, *map(self.data, DATA_FOLDERS)):
                folder.mkdir(mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{self.path}: a part of this path is a file") from None
        except OSError as error:
            raise UsageError(f"{self.path}: can't be used: {error.strerror}") from None

    def data(self, server: str) -> Path:
        """The folder of a server's data."""
        return self.path / server

    def supervisor_pid(self) -> int | None:
        """The process id of the supervisor; None if none runs here."""
        with suppress(OSError, ValueError), self.lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
        return None

    @contextmanager
    def starting(self, seconds: float = 180) -> Iterator[None]:
        """Let one `up` at a time prepare a start. Raises `ServiceError` after `seconds`."""
        with open_private(self.path / "up.lock") as file:
            if not _locked(file, seconds):
                raise ServiceError(f"another `imagemill up` starts {self.path}")
            yield

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Hold the home as its supervisor. Raises `UsageError` if another one does."""
        with open_private(self.lock) as file:
            if not _locked(file, _PROBE_SECONDS):
                raise UsageError(f"{self.path} has a supervisor already")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


DATA_FOLDERS = ("postgres", "valkey", "seaweedfs")
_MADE_FIRST = frozenset(
    {"up.lock", "supervisor.lock", "logs", "parked", "certificate.pem", "key.pem", *DATA_FOLDERS}
)
"""What the folder may contain before the plan is written."""


def open_private(file: Path) -> IO[str]:
    """Open a file to append to it; if it is new, only the owner can read it."""
    return os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")


def _locked(file: IO[str], seconds: float) -> bool:
    """Lock an open file; False if another process still holds it after `seconds`."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(_LOOK_SECONDS)
        else:
            return True


def write_private(file: Path, document: Any, *, lasting: bool = False) -> None:
    """Write JSON that only the owner can read, complete or not at all.

    `lasting` waits until it is on the disk, so that no power failure loses it.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w") as opened:
            json.dump(document, opened, indent=1)
            if lasting:
                opened.flush()
                os.fsync(handle)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
