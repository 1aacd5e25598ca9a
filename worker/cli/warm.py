"""`python -m imagemill.worker.cli.warm FD`: a worker that is told its settings late.

`imagemill run` starts it before it makes the database and reads the manifest. Meanwhile it imports
what takes seconds. Then it reads one JSON object from the pipe FD: `environment`, the variables of
its settings, and `log`, the file for its output. If the pipe ends without one, it ends too.
"""

import json
import os
import sys
from contextlib import suppress

from imagemill.db.process.quick_exit import quick_exit
from imagemill.db.settings import Settings
from imagemill.worker.cli.worker import worker
from imagemill.worker.process.start_method import FORK, prepare_to_fork, start_method


def main(pipe: int) -> None:
    """Import, wait, work."""
    # What is wrong with the settings or the libraries is said later, when there is a log for it.
    with suppress(Exception):
        settings = Settings.load()
        # prometheus_client may be imported only after the folder for its files is known.
        if settings.metrics_port is None and start_method(settings) == FORK:
            prepare_to_fork()
    with os.fdopen(pipe, "rb") as stream:
        told = stream.read()
    if not told:
        return
    orders = json.loads(told)
    os.environ.update(orders["environment"])
    log = os.open(orders["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    worker(args=[])


if __name__ == "__main__":
    with quick_exit():
        main(int(sys.argv[1]))
