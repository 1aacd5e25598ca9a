"""How much memory this process holds, and whether that is more than it may."""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The memory of this process that is in RAM now; 0 where there is no `/proc`."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class ResidentLimit:
    """A limit on the resident memory of this process, in bytes; None is no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._passed = False

    def passed(self) -> bool:
        """Look now. Once passed stays passed: what a process gave back it may soon need again."""
        if self._limit is None or self._passed:
            return self._passed
        held = resident_bytes()
        if held > self._limit:
            self._passed = True
            log.warning(
                "this child holds %d MiB where IMAGEMILL_MAX_WORKER_MEMORY allows %d; "
                "it is replaced", held >> 20, self._limit >> 20)  # fmt: skip
        return self._passed
