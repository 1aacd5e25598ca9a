"""A process that was told to end does so, whatever keeps its main thread and the others."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from imagemill.db.process.grace_period import stop_on_signals

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_main_thread_that_is_about_to_wait(number: signal.Signals):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    stop = threading.Event()
    stop_on_signals(stop, grace=False)
    try:
        with stop._cond:  # as in `stop.wait`
            os.kill(os.getpid(), number)
        assert stop.wait(240)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
