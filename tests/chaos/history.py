"""The raw history of a campaign: one JSON line an event, appended by every process.

A line is one `write` to a file opened for appending, so lines of processes that die the next
moment are whole, and never mixed with others'.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EPOCH = "CHAOS_EPOCH"
"""The variable with the time at which the monotonic clock was zero."""


def true_time() -> float:
    """Seconds since 1970, also in a process whose clock is set anew: see `tests.chaos.outages`."""
    epoch = os.environ.get(EPOCH)
    return time.time() if epoch is None else float(epoch) + time.monotonic()


class History:
    """Appends events; safe from many processes and threads, and just before a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, event: str, **values: Any) -> None:
        line = {"at": round(true_time(), 3), "pid": os.getpid(), "event": event, **values}
        os.write(self._file, (json.dumps(line) + "\n").encode())


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """Every event, oldest first. The last one may be about to be written."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
