"""`python -m tests.helpers.processes.fork_server FD [MODULE…]` forks commands; see `forks`.

It imports MODULE too. FD is a socket that listens for more clients, and nothing is imported before
the first one comes; with -1 there is none. An order has a module and its words, variables, folder
and output. All forks end with it.
"""

import atexit
import gc
import os
import select
import socket
import sys
import traceback
from importlib import import_module
from runpy import run_module
from typing import NoReturn

from tests.helpers.processes.forking import Order, end_with_parent, serve_orders

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
    number, *modules = sys.argv[1:]
    listener = None if number == "-1" else socket.socket(fileno=int(number))
    if listener is not None:
        asked, _, _ = select.select([listener, 0], [], [])
        if listener not in asked:
            return  # the tests have ended, and nobody has asked for anything
    gc.disable()
    for module in (*IMPORTED, *modules):
        import_module(module)
    gc.freeze()
    gc.enable()
    serve_orders(_live, listener)


def _live(order: Order) -> NoReturn:
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


def _become(order: Order) -> None:
    """What a new process has of its own: session, files, signals, variables, folder."""
    os.setsid()
    end_with_parent()
    if os.getppid() == 1:
        os._exit(1)
    os.closerange(3, 64)
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    files = order.get("input", os.devnull), order["output"], order["errors"]
    for number, name in enumerate(files):
        opened = os.open(name, how if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if order.get("umask", -1) >= 0:
        os.umask(order["umask"])
    sys.argv = [order["module"], *order["words"]]


def _command(module: str, words: list[str]) -> None:
    if module == "-c":
        exec(words[0], {"__name__": "__main__"})
        return
    if module == "tests.chaos.worker":
        from imagemill.worker.cli.worker import worker
        from tests.chaos.roles import prepare_worker

        prepare_worker()
        worker(words)
    if "torch" in sys.modules:
        from tests.helpers.processes.forked_worker import fork_workers_of_runs

        fork_workers_of_runs()
    from tests.helpers.processes.forked_stack import fork_stacks

    fork_stacks()
    if module != "imagemill":
        run_module(module, run_name="__main__")
        return
    from imagemill.scheduler_jobs.cli import cli

    cli.main(words, prog_name="imagemill")


if __name__ == "__main__":
    main()
