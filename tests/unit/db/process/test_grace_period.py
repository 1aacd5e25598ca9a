"""A process that was told to end does so, whatever keeps its main thread and the others."""

import signal
import subprocess
import sys

PROGRAM = """
import threading, time
from imagemill.db.process.grace_period import begin_grace

threading.Thread(target=threading.Event().wait).start()
begin_grace(0.3)
begin_grace(600)  # a second signal gives no more time
"""


def ended(end: str) -> int:
    """The status of a program that ends so."""
    program = [sys.executable, "-c", PROGRAM + end]
    return subprocess.run(program, check=False).returncode


def test_no_thread_keeps_it():
    assert ended("") == -signal.SIGALRM
    assert ended("threading.Event().wait()") == -signal.SIGALRM
