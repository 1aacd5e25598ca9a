"""`python -m tests.helpers.fork_server`: forks commands of `imagemill`; see `forks`.

Orders come as JSON lines on standard input, answers go to standard output: `{"started": pid}`, in
the order of the orders, and `{"ended": pid, "status": …}`. It ends with its standard input, and
takes all forks along.
"""

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

IMPORTED = (
    "boto3",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "imagemill.scheduler_jobs.cli",
    "imagemill.worker.cli.worker",
    "imagemill.worker.process.pool",
    "imagemill.worker.shifts.shift",
    "kombu.transport.redis",
    "psycopg",
    "tests.chaos.roles",
    "uvicorn",
)
"""Nothing here reads settings, or starts a thread, while it is imported."""


def main() -> None:
    for module in IMPORTED:
        import_module(module)
    gc.freeze()
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
                    _live(json.loads(line))
                _say(started=pid)


def _live(order: Mapping[str, Any]) -> NoReturn:
    """The command, in the fork. Never returns into the server's loop."""
    status: object = 1
    try:
        _become(order)
        _command(order["module"], order["words"])
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def _become(order: Mapping[str, Any]) -> None:
    """What a new process has of its own: session, files, signals, variables, folder."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() == 1:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.closerange(3, 64)
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for number, name in ((0, os.devnull), (1, order["output"]), (2, order["errors"])):
        opened = os.open(name, how if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = [order["module"], *order["words"]]


def _command(module: str, words: list[str]) -> None:
    if module == "tests.chaos.worker":
        from imagemill.worker.cli.worker import worker
        from tests.chaos.roles import prepare_worker

        prepare_worker()
        worker(words)
    from imagemill.scheduler_jobs.cli import cli

    cli.main(words, prog_name="imagemill")


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
    main()
