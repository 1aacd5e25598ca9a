"""A master, a replica and a Sentinel: real Valkey processes that fail over."""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.valkey import valkey_binary
from tests.helpers.servers.scratch import ScratchFolder

MASTER = "mill"
PATIENCE_SECONDS = 180


class Watched:
    """Two Valkey servers and the Sentinel that watches them; use it as a context manager.

    The servers and the Sentinel have passwords of their own. The Sentinel names the first server
    by the port that `front` gives for its own.
    """

    def __init__(self, *, front: Callable[[int], int] = int) -> None:
        self._front = front
        self._scratch = ScratchFolder("sentinel")
        self.password = secrets.token_urlsafe(24)
        self.sentinel_password = secrets.token_urlsafe(24)
        self.sentinel_port, *self._ports = free_ports(3)
        self._servers: dict[int, TetheredProcess] = {}
        self._sentinel: TetheredProcess | None = None

    @property
    def url(self) -> str:
        """The broker's URL for Celery."""
        return f"sentinel://:{self.password}@127.0.0.1:{self.sentinel_port}/0"

    def __enter__(self) -> Self:
        first, second = self._ports
        shared = [f"requirepass {self.password}", f"masterauth {self.password}", 'save ""']
        for port in (first, second):
            follow = [] if port == first else [f"replicaof 127.0.0.1 {first}"]
            self._servers[port] = self._start(f"valkey-{port}", port, [*shared, *follow])
            _wait(lambda port=port: self._ask(port, self.password).ping())
        self._sentinel = self._start(
            "sentinel",
            self.sentinel_port,
            [
                f"requirepass {self.sentinel_password}",
                f"sentinel monitor {MASTER} 127.0.0.1 {self._front(first)} 1",
                f"sentinel auth-pass {MASTER} {self.password}",
                # Long: a server that a busy machine lets wait is not down.
                f"sentinel down-after-milliseconds {MASTER} 60000",
                f"sentinel failover-timeout {MASTER} 5000",
            ],
            "--sentinel",
        )
        # A master whose replica is not known yet can't be replaced.
        _wait(lambda: self._replicas() == 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (self._sentinel, *self._servers.values()):
            if process is not None:
                process.kill()
        self._scratch.remove()

    def master_port(self) -> int:
        """The port of the server that is the master for the Sentinel now."""
        found = self._sentinels().execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(found[1])

    def kill_master(self) -> int:
        """Kill the master, and wait until the Sentinel has made the other one the master."""
        lost = self.master_port()
        self._servers[lost].kill()
        quick = ("SENTINEL", "SET", MASTER, "down-after-milliseconds", "1000")
        self._sentinels().execute_command(*quick)
        _wait(lambda: self.master_port() != lost)
        return self.master_port()

    def _replicas(self) -> int:
        found = self._sentinels().execute_command("SENTINEL", "REPLICAS", MASTER)
        return sum("master-link-status" in str(each) and "'ok'" in str(each) for each in found)

    def _sentinels(self) -> "Redis[str]":
        return self._ask(self.sentinel_port, self.sentinel_password)

    def _ask(self, port: int, password: str) -> "Redis[str]":
        return Redis(
            port=port,
            password=password,
            socket_timeout=20,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )

    def _start(self, name: str, port: int, lines: list[str], *options: str) -> TetheredProcess:
        folder = self._scratch.path / name
        folder.mkdir(parents=True)
        # A Sentinel rewrites its file: what it has found out stands there.
        file = folder / "server.conf"
        file.write_text("\n".join([f"port {port}", "bind 127.0.0.1", "dir .", *lines]) + "\n")
        return TetheredProcess(
            [str(valkey_binary()), file.name, *options], folder=folder, log=folder / "log"
        )


def _wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(RedisError):
            if what():
                return
        time.sleep(0.1)
    raise AssertionError("the servers did not get there in time")
