"""Freed memory stays with a process that renders, and goes back when a model is done with."""

import os
import subprocess
import sys

import pytest

from imagemill.worker.models import host_memory

_MIB = 2**20

_PROGRAM = """
import resource, sys
from imagemill.worker.models.host_memory import keep_freed_memory, return_freed_memory

def use(mib):
    blocks = [bytearray(4 * 2**20) for _ in range(mib // 4)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
use(64)
if sys.argv[2] == "return":
    return_freed_memory()
before = faults()
for _ in range(5):
    use(64)
    if sys.argv[2] == "return":
        return_freed_memory()
print(kept, faults() - before)
"""

_PAGES = 64 * _MIB // os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.skipif(
    host_memory._glibc() is None, reason="the C library of this machine is not glibc"
)


def _faults(*words: str, **environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the pages that five rounds of 64 MiB had to be given."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, faults = done.stdout.split()
    return said, int(faults)


def test_memory_that_a_call_freed_serves_the_next_call() -> None:
    assert _faults("leave", "leave")[1] > _PAGES
    said, faults = _faults("keep", "leave")
    assert said == "True"
    assert faults < _PAGES / 20


def test_memory_goes_back_when_it_is_returned() -> None:
    assert _faults("keep", "return")[1] > _PAGES


def test_who_chooses_with_a_variable_is_left_alone() -> None:
    said, _ = _faults("keep", "leave", MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False"
