"""A ceiling on this process's memory, for as long as a library unpacks what a file asks for.

A Parquet file of 800 bytes may name a page of two gigabytes, or a list of a billion zeroes; its
own metadata may lie about either. No setting of Arrow's bounds that, but the kernel does.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PAGES = Path("/proc/self/statm")


@contextmanager
def at_most_more(count: int) -> Iterator[None]:
    """Within it, whoever allocates more than `count` bytes beyond what is mapped now is refused.

    Python raises MemoryError then, Arrow an `ArrowMemoryError`. Of the process, so of all its
    threads. Where there is no /proc (not Linux), nothing is refused.
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
