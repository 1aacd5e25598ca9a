"""Python imports this before all else where a process's clock is libfaketime's.

Where libfaketime leaves the monotonic clock as it is, it spoils absolute sleeps on that clock
(`clock_nanosleep`, as `time.sleep` uses): they fail with EINVAL. `select` sleeps as well.
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = _sleep
