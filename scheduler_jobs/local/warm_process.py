"""Starts the process of `imagemill run`'s worker, which imports its libraries and waits for orders.

Importing this module is quick, so that `imagemill run` can start the process before it imports what
it needs itself.
"""

import os
import signal
import sys
from collections.abc import Mapping

from imagemill.scheduler_jobs.local.child_process import TetheredProcess


def start_warm(environment: Mapping[str, str]) -> tuple[TetheredProcess, int]:
    """The process, with these variables, and the end of a pipe for its orders.

    It is killed when this process ends in any way. Without orders it holds nothing.
    """
    reading, writing = os.pipe()
    try:
        process = TetheredProcess(
            [sys.executable, "-P", "-m", "imagemill.worker.cli.warm", str(reading)],
            environment=environment,
            death_signal=signal.SIGKILL,
            inherit=[reading],
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, writing
