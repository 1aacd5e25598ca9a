"""What becomes of the host memory that is freed: kept for the next denoiser call, or given back.

A denoiser call on a CPU frees what the next one allocates. By default glibc gives much of that back
to the kernel each time, which then has to find, clear and map the pages again: a seventh of the
processor time of a small model. Other allocators and platforms are left as they are.
"""

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Numbers of parameters in glibc's `malloc.h`."""

_KEPT_BYTES = 2**30
"""How much may be free at the end of the heap, and how large a block may be and lie there."""

_KEPT_BYTES_BEFORE_2_35 = 2**25
"""The largest block that older versions of glibc allow there."""

_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which whoever starts a process chooses for themselves."""


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory; whether that was done. Safe to repeat."""
    libc = _glibc()
    if libc is None or any(name in os.environ for name in _CHOICES):
        return False
    libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(
        libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        or libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES_BEFORE_2_35)
    )


def return_freed_memory() -> None:
    """Give all freed memory back to the kernel: after a model was loaded or unloaded."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """This process's C library, if it is glibc."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
