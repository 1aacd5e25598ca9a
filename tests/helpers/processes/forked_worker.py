"""The worker of `imagemill run` as a fork of the run, where that has imported torch already.

The run of a person must not import torch, and starts `imagemill.worker.cli.warm` as a program.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context

import imagemill.scheduler_jobs.local.warm_process
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.worker.cli import warm
from tests.helpers.processes.forking import end_with_parent


def fork_workers_of_runs() -> None:
    """In this process, `LocalWorker` starts forks."""
    imagemill.scheduler_jobs.local.warm_process.TetheredProcess = ForkedWorker


class ForkedWorker(TetheredProcess):
    """`warm` with the pipe of its orders; it is killed when this process ends, in whatever way."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        death_signal: signal.Signals,
        inherit: Sequence[int],
    ) -> None:
        assert warm.__name__ in argv
        assert death_signal == signal.SIGKILL
        self._child = get_context("fork").Process(target=_live, args=(dict(environment), *inherit))
        self._child.start()

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    def poll(self) -> int | None:
        return self._child.exitcode

    def wait(self, seconds: float | None = None) -> int:
        self._child.join(seconds)
        if self._child.exitcode is None:
            raise subprocess.TimeoutExpired("warm", seconds or 0)
        return self._child.exitcode

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _live(environment: Mapping[str, str], pipe: int) -> None:
    """Work, with what a new process has of its own: session, signals, files, variables."""
    os.setsid()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 1 << 16)
    os.environ.clear()
    os.environ.update(environment)
    warm.main(pipe)
