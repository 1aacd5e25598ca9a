"""How Python itself works while millions of rows are made."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_SWITCH_SECONDS = 0.0002
"""How long planning keeps the interpreter from the thread that loads, which has an answer.

That thread waits forty times for each chunk, and until it goes on the database has nothing to do.
"""

_COLLECTED_AFTER = (50_000, 3, 2)
"""When the collector looks for cycles, as `gc.set_threshold` takes it. By itself it looks at each
row of a chunk several times, a sixth of the time, and rows have no cycles. Statements have: who
loads many chunks collects now and then."""


class _Settings:
    """The interpreter's settings, which all threads share: the last to leave puts them back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._switch = sys.getswitchinterval()
        self._threshold = gc.get_threshold()

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._switch, self._threshold = sys.getswitchinterval(), gc.get_threshold()
                sys.setswitchinterval(min(self._switch, _SWITCH_SECONDS))
                gc.set_threshold(*_COLLECTED_AFTER)
                gc.freeze()  # what is there by now stays, so nobody need look at it again

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                sys.setswitchinterval(self._switch)
                gc.set_threshold(*self._threshold)
                gc.unfreeze()


_SETTINGS = _Settings()


@contextmanager
def tuned_for_rows() -> Iterator[None]:
    """Within the block, Python collects cycles less often and threads take turns sooner."""
    _SETTINGS.enter()
    try:
        yield
    finally:
        _SETTINGS.leave()
