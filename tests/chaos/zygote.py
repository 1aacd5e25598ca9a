"""A process that has imported everything, and forks a role within milliseconds of being asked.

A worker that is killed a thousand times must not import SQLAlchemy and boto3 a thousand times.
It is given the files of the history and the log, and the names of further modules to import.
Orders come as JSON lines on stdin (`{"role": "worker", …}`), answers go to stdout:
`{"started": pid}`, in the order of the orders, and `{"ended": pid, "status": …}`.
"""

import ctypes
import json
import os
import random
import resource
import select
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from imagemill.db.logs import configure_logging
from imagemill.db.settings import Settings
from tests.chaos import crashes
from tests.chaos.history import History
from tests.chaos.roles import ROLES

_LOOK_SECONDS = 0.02


def main(history_file: str, log_file: str, *modules: str) -> None:
    _end_with_parent()
    for module in modules:
        import_module(module)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    orders = b""
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
        if readable:
            data = os.read(sys.stdin.fileno(), 65536)
            if not data:
                return
            *lines, orders = (orders + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _live(order, Path(history_file), Path(log_file))
                _say(started=pid)
        _reap()


def _live(order: dict[str, Any], history_file: Path, log_file: Path) -> NoReturn:
    """A role's life, in the fork. Never returns into the zygote's loop."""
    code = 0
    try:
        _end_with_parent()
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        random.seed(order["seed"])
        os.environ |= order.get("environment", {})
        configure_logging(Settings.load())
        history = History(history_file)
        crashes.install(order["role"], chance=order["chance"], history=history)
        ROLES[order["role"]](order, history)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


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


if __name__ == "__main__":
    main(*sys.argv[1:])
