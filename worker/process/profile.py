"""Which child profiles its engine, and where it writes: `imagemill worker --profile FILE`."""

import os
from pathlib import Path

from billiard import current_process

_VARIABLE = "_IMAGEMILL_PROFILE"
"""Tells a child the file, whether it is forked or spawned."""


def profile_into(trace: Path) -> None:
    """Have the first of the children started from here on profile its first engine."""
    os.environ[_VARIABLE] = str(trace.absolute())


def trace_of_this_child() -> Path | None:
    """Where this child writes a profile; None if another one does, or nobody asked."""
    trace = os.environ.get(_VARIABLE)
    first = (getattr(current_process(), "index", 0) or 0) == 0
    return Path(trace) if trace and first else None
