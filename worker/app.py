"""The worker's Celery application, best started by `imagemill worker`.

Reads the settings when imported, like `db.broker.celery_app`: Celery's children import it by name.
"""

import logging
from typing import Any

from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from kombu import Connection

from imagemill.db.broker.wake_ups import SCORE_TASK, SHIFT_TASK, make_app
from imagemill.db.process.logs import configure_logging
from imagemill.db.settings import Settings
from imagemill.worker.process import drain
from imagemill.worker.process.child import announce_child, close_child, score_shift, work_shift
from imagemill.worker.process.presence import belong_to

log = logging.getLogger(__name__)

_RECONNECT_SECONDS = 4.0


class _SteadyConnection(Connection):  # type: ignore[misc]  # kombu is untyped
    """Looks for a lost broker every few seconds, where kombu's own pauses grow to half a minute."""

    def ensure_connection(self, *args: Any, **values: Any) -> Any:
        """See kombu."""
        return super().ensure_connection(*args, **{"interval_max": _RECONNECT_SECONDS, **values})


_settings = Settings.load()

app = make_app(_settings)
app.amqp.Connection = _SteadyConnection
app.conf.worker_pool = "imagemill.worker.process.pool:TaskPool"
app.conf.worker_consumer = "imagemill.worker.process.message_gate:TokenConsumer"


@app.task(name=SHIFT_TASK)
def shift(route: str) -> str:
    """Render until the shift's time is over or nothing is left; a readable report."""
    return work_shift(route)


@app.task(name=SCORE_TASK)
def score(route: str) -> str:
    """Judge pictures until the shift's time is over or nothing is left; a readable report."""
    return score_shift(route)


@setup_logging.connect
def _log_our_way(**_: Any) -> None:
    configure_logging(_settings)


@celeryd_init.connect
def _take_name(sender: str = "", **_: Any) -> None:
    belong_to(sender)


@worker_ready.connect
def _watch_notice(**_: Any) -> None:
    if _settings.notice_file is not None:
        drain.watch_notice(_settings.notice_file)


@worker_shutting_down.connect
def _drain(sig: str = "", **_: Any) -> None:
    # In this order: what the line says is true as soon as somebody reads it.
    drain.tell_children(seconds=_settings.drain_seconds)
    log.info("draining (%s); the same signal again ends at once", sig)


@worker_shutdown.connect
def _clean_up(**_: Any) -> None:
    drain.forget_file()


@worker_process_init.connect
def _announce(**_: Any) -> None:
    announce_child()


@worker_process_shutdown.connect
def _sign_off(**_: Any) -> None:
    close_child()
