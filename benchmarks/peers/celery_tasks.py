"""P2: a Celery task for each picture, and a worker with a process for each core.

`CeleryPeer` starts the worker as a tutorial does. A task loads the pipeline when it is the first
one of its process.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from celery import Celery, group

from benchmarks.peers.manifests import Request
from imagemill.scheduler_jobs.local.child_process import TetheredProcess

BROKER = "PEERS_BROKER"
"""The variable with the broker's URL."""

_RESULT_SECONDS = 7200
_STOP_SECONDS = 10

app = Celery("peers", broker=os.environ.get(BROKER), backend=os.environ.get(BROKER))
app.conf.update(worker_prefetch_multiplier=1, task_acks_late=True)


@app.task(name="peers.render")
def render(row: dict[str, Any], folder: str) -> int:
    """Render one picture into a file; the rows that the U-Net computed for it."""
    script = _script()
    before = script.row_forwards
    script.render([Request(**row)], Path(folder))
    return script.row_forwards - before


@cache
def _script() -> Any:
    from benchmarks.peers.pipeline import Script  # noqa: PLC0415  # the worker's parent needs no torch

    return Script()


class CeleryPeer:
    """The worker, as long as the block lasts; every process of it has loaded its model."""

    def __init__(self, broker: str, processes: int, folder: Path) -> None:
        self._environment = {**os.environ, BROKER: broker, "OMP_NUM_THREADS": "1"}
        self._processes = processes
        self._log = folder / "celery.log"
        app.conf.update(broker_url=broker, result_backend=broker)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_tasks", "worker"]
        command += [f"--concurrency={self._processes}", "--loglevel=WARNING"]
        self._worker = TetheredProcess(
            command,
            environment=self._environment,
            folder=Path(__file__).parents[2],
            log=self._log,
            death_signal=signal.SIGKILL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop(seconds=_STOP_SECONDS)
        app.close()

    def render(self, rows: Sequence[Request], folder: Path) -> tuple[float, int]:
        """Render all rows, a task each; the seconds, and the U-Net's rows."""
        started = time.monotonic()
        tasks = group(render.s(vars(row), str(folder)) for row in rows)
        row_forwards = sum(tasks.apply_async().get(timeout=_RESULT_SECONDS))
        return time.monotonic() - started, row_forwards
