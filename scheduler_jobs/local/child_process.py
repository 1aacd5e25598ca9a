"""A child process that can't outlive this one, even if this one is killed with SIGKILL.

Linux sends a child a signal of its choice when its parent *thread* ends (prctl(2),
PR_SET_PDEATHSIG). So every child gets a thread of its own, which starts it and stays until it has
ended. A short launcher asks for the signal and then becomes the program. To ask between fork and
exec instead (`preexec_fn`) can deadlock in a process with threads.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_LAUNCHER = """
import ctypes, os, signal, sys
parent, number, user = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if user >= 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
ctypes.CDLL(None).prctl(1, number, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("the parent is gone")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[4], sys.argv[4:])
"""


class TetheredProcess:
    """A running program; `argv[0]` is the path of its file.

    It has its own session, so Ctrl-C in the terminal reaches this process only. It gets
    `death_signal` when this process ends in any way. `user` is the user and group id that it runs
    as; only root may set it. `log` is the file for its output (default: none). `inherit` are file
    descriptors that it keeps, such as a lock.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        death_signal: signal.Signals = signal.SIGTERM,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        user: int | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        command = [*launcher, str(int(death_signal)), str(-1 if user is None else user), *argv]
        self._started = threading.Event()
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None

        def hold() -> None:
            try:
                with _output(log) as output:
                    self._process = subprocess.Popen(  # noqa: S603  # argv is ours, no shell
                        command,
                        cwd=folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=inherit,
                    )
            except OSError as error:
                self._failure = error
            self._started.set()
            self._ended.wait()

        threading.Thread(target=hold, name=f"tether of {Path(argv[0]).name}", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            self._ended.set()
            raise self._failure

    @property
    def pid(self) -> int:
        """The process id. It stays the same when the launcher becomes the program."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status as `Popen.poll` gives it; None while the program runs."""
        return self._noted(self._popen.poll())

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end; returns the exit status. Raises `subprocess.TimeoutExpired`."""
        status = self._popen.wait(seconds)
        self._noted(status)
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal. Nothing happens if the program has ended."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait until the program has ended."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 10) -> None:
        """Ask the program to end by a signal. SIGKILL it if it still runs after `seconds`."""
        self.send(number)
        self.wait_or_kill(seconds)

    def wait_or_kill(self, seconds: float) -> None:
        """Wait for the end. SIGKILL the program if it still runs after `seconds`."""
        try:
            self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def _popen(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _noted(self, status: int | None) -> int | None:
        if status is not None:
            self._ended.set()
        return status


def _output(log: Path | None) -> IO[bytes]:
    return (log or Path(os.devnull)).open("ab")
