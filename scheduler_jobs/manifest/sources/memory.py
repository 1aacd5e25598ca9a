"""A limit on this process's memory while a library unpacks a file.

A Parquet file of 800 bytes may announce a page of two gigabytes or a list of a billion zeroes, and
its metadata may lie about both. Arrow has no setting that limits this, but the kernel has.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PAGES = Path("/proc/self/statm")


@contextmanager
def at_most_more(count: int) -> Iterator[None]:
    """Within the block, the process may allocate at most `count` bytes more than it has now.

    Beyond that Python raises `MemoryError`, and Arrow raises `ArrowMemoryError`. The limit applies
    to all threads of the process. Without /proc (not on Linux) there is no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        mapped = int(_PAGES.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    ceiling = mapped + count
    if soft != resource.RLIM_INFINITY:
        ceiling = min(ceiling, soft)
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
