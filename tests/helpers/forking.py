"""The loop of a process that forks others: orders in, what became of them out.

Orders come as JSON lines on standard input. Answers go to standard output: `{"started": pid}`, in
the order of the orders, and `{"ended": pid, "status": …}`. The loop ends with standard input.
"""

import ctypes
import json
import os
import select
import signal
from collections.abc import Callable, Mapping
from typing import Any

Order = Mapping[str, Any]


def serve_orders(live: Callable[[Order], object]) -> None:
    """Call `live` in a fork for each order. It must end its process itself."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    orders = b""
    while True:
        readable, _, _ = select.select([0, waking], [], [])
        if waking in readable:
            os.read(waking, 4096)
            _reap()
        if 0 in readable:
            data = os.read(0, 1 << 20)
            if not data:
                return
            *lines, orders = (orders + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(waking)
                    os.close(woken)
                    live(json.loads(line))
                    os._exit(1)
                _say(started=pid)


def end_with_parent() -> None:
    """Be killed when the parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(ended=pid, status=os.waitstatus_to_exitcode(status))


def _say(**values: int) -> None:
    os.write(1, (json.dumps(values) + "\n").encode())
