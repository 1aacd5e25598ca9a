"""A child process that cannot outlive us, not even when we are killed with SIGKILL.

Linux sends a signal of the child's choice when its parent *thread* ends (prctl(2),
PR_SET_PDEATHSIG). So every child gets a thread of its own that starts it and stays until it is
gone, and a short launcher asks for the signal before it becomes the program: asking between
fork and exec instead (`preexec_fn`) can deadlock in a process with threads.
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

    It leads its own session, so Ctrl-C in our terminal reaches us and not it. It gets
    `death_signal` when this process ends in any way. `user` is the user and group id to run as,
    for root only. `log` collects its output (default: nowhere); `inherit` are file descriptors
    it keeps, a lock for example.
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
        """The process id; the launcher keeps it when it becomes the program."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status as `Popen.poll` gives it, None while it runs."""
        return self._noted(self._popen.poll())

    def wait(self, seconds: float | None = None) -> int:
        """The exit status, once it ended; `subprocess.TimeoutExpired` if it takes longer."""
        status = self._popen.wait(seconds)
        self._noted(status)
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 10) -> None:
        """Ask it to end with a signal; SIGKILL if it is still there after `seconds`."""
        self.send(number)
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
