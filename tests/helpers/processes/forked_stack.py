"""The supervisor of `imagemill up` and its commands as forks of the servers that all tests share.

Each of them would take a second of a core for its imports, and a worker five. PostgreSQL and the
other servers are programs, as always.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import imagemill.scheduler_jobs.stack.control
import imagemill.scheduler_jobs.stack.program
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.stack import supervisor
from tests.helpers.processes import forks

PRIVATE = 0o077
"""The umask of what a supervisor starts."""


def fork_stacks() -> None:
    """In this process, `up` starts a fork, which starts forks, where they suit."""
    if forks.shared_folder() is not None and forks.suits(os.environ):
        imagemill.scheduler_jobs.stack.control.subprocess = SimpleNamespace(
            DEVNULL=subprocess.DEVNULL, Popen=_supervisor
        )
        imagemill.scheduler_jobs.stack.program.TetheredProcess = ForkedService


class ForkedService(TetheredProcess):
    """`python -P -m MODULE WORDS…`; it is killed when this process ends, in whatever way."""

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], log: Path, death_signal: int
    ) -> None:
        module, words = _module(argv)
        self._fork = forks.start(module, *words, environment=environment, output=log, umask=PRIVATE)

    @property
    def pid(self) -> int:
        return self._fork.pid

    def poll(self) -> int | None:
        return self._fork.poll()

    def wait(self, seconds: float | None = None) -> int:
        return self._fork.wait(seconds)

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _supervisor(
    argv: Sequence[str], *, env: Mapping[str, str], stdout: IO[str], umask: int, **_: object
) -> forks.Fork:
    """In place of `subprocess.Popen`: what it starts stays when this process has ended."""
    module, words = _module(argv)
    assert module == supervisor.__name__
    log = Path(f"/proc/self/fd/{stdout.fileno()}").readlink()
    return forks.start(module, *words, environment=env, output=log, umask=umask, stays=True)


def _module(argv: Sequence[str]) -> tuple[str, list[str]]:
    _, safe_path, flag, module, *words = map(str, argv)
    assert (safe_path, flag) == ("-P", "-m")
    return module, words
