"""A process that has imported everything, and forks a role within milliseconds of being asked.

A worker that is killed a thousand times must not import SQLAlchemy and boto3 a thousand times.
It is given the files of the history and the log, and the names of further modules to import.
An order (`tests.helpers.processes.forking`) names a role, its seed and its chance of crashing.
"""

import gc
import os
import random
import resource
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from imagemill.db.process.logs import configure_logging
from imagemill.db.settings import Settings
from tests.chaos import crashes
from tests.chaos.history import History
from tests.chaos.roles import ROLES
from tests.helpers.processes.forking import Order, end_with_parent, serve_orders


def main(history_file: str, log_file: str, *modules: str) -> None:
    end_with_parent()
    gc.disable()
    for module in modules:
        import_module(module)
    # No fork looks for garbage among what was imported.
    gc.freeze()
    gc.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve_orders(lambda order: _live(order, Path(history_file), Path(log_file)))


def _live(order: Order, history_file: Path, log_file: Path) -> NoReturn:
    """A role's life, in the fork. Never returns into the zygote's loop."""
    code = 0
    try:
        end_with_parent()
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


if __name__ == "__main__":
    main(*sys.argv[1:])
