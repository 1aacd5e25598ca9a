"""The worker's Celery application, best started by `imagemill worker`.

Reads the settings when imported, like `db.celery_app`: Celery's children import it by name.
"""

import logging
import os
from pathlib import Path
from typing import Any

from celery.signals import (
    setup_logging,
    worker_process_shutdown,
    worker_shutdown,
    worker_shutting_down,
)

from db.broker import SHIFT_TASK, make_app
from db.logs import configure_logging
from db.settings import Settings
from worker.child import this_child
from worker.drain import DRAIN_FILE

log = logging.getLogger(__name__)

app = make_app(Settings.load())


@app.task(name=SHIFT_TASK)
def shift(route: str) -> str:
    """Render until the shift's time is over or nothing is left; a readable report."""
    return this_child().work(route)


@setup_logging.connect
def _log_our_way(**_: Any) -> None:
    configure_logging(Settings.load())


@worker_shutting_down.connect
def _tell_children(sig: str = "", **_: Any) -> None:
    log.info("draining (%s)", sig)
    for file in _drain_files():
        file.touch()


@worker_shutdown.connect
def _clean_up(**_: Any) -> None:
    for file in _drain_files():
        file.unlink(missing_ok=True)
        file.parent.rmdir()


@worker_process_shutdown.connect
def _sign_off(**_: Any) -> None:
    if this_child.cache_info().currsize:
        this_child().close()


def _drain_files() -> list[Path]:
    """The drain file, if `imagemill worker` chose one (a bare `celery worker` has none)."""
    return [Path(os.environ[DRAIN_FILE])] if DRAIN_FILE in os.environ else []
