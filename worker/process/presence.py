"""A process's row in `workers`, which is kept fresh for as long as the process lives.

A lease says that a shift makes progress; the row says that a worker is there to take work. The row
is made when Celery starts the process, before its first shift. A thread confirms it now and then,
so an idle worker stays visible, and a worker that was killed is forgotten after `ALIVE_SECONDS`.
"""

import logging
import os
import random
import socket
import threading

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError
from imagemill.db.labels import workers_labels
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.memory_needs import Card
from imagemill.db.queries.work.presence import ALIVE_SECONDS
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

SEEN_SECONDS = ALIVE_SECONDS / 4
"""The pause between two signs of life. Three of them may be lost."""

_PATIENCE_SECONDS = 5.0
"""How long a sign of life or a farewell waits for a database that does not answer."""


_NODE = "_IMAGEMILL_NODE"
"""The variable that tells a child which Celery worker started it. A spawned child shares nothing
else with it."""


def belong_to(node: str) -> None:
    """Name the Celery worker (`name@host`) that the processes started from here on belong to."""
    os.environ[_NODE] = node


class Presence:
    """A worker process as the database knows it. `start` and `close` are each called once."""

    def __init__(self, settings: Settings, *, seconds: float = SEEN_SECONDS) -> None:
        self._route = settings.route
        self._device = settings.device
        self._labels = workers_labels(settings.labels)
        self._seconds = seconds
        # No connection is kept open between two signs of life, because a machine may have many idle
        # children.
        self._database = Database.from_settings(settings)
        self._worker_id: int | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Register, and give signs of life from now on, in a thread that nobody waits for."""
        threading.Thread(target=self._keep, name="presence", daemon=True).start()

    def worker_id(self, device: str, card: Card | None = None) -> int:
        """The id of this process's row, after the row was given the device that it has found.

        `card` is the device's memory, if it has its own.

        Raises `DatabaseError` if the database does not answer.
        """
        with self._lock:
            self._device = device
            known = self._worker_id or self._register()
            self._database.run(
                lambda session: shifts.see_worker(session, known, device=device, card=card),
            )
            return known

    def close(self) -> None:
        """Say that this process has stopped in good order, unless the database does not answer."""
        self._ended.set()
        with self._lock:
            known = self._worker_id
            try:
                if known is not None:
                    self._database.run(
                        lambda session: shifts.stop_worker(session, known),
                        patience=_PATIENCE_SECONDS,
                    )
            except DatabaseError as error:
                log.warning("could not sign off: %s", error)
            self._database.close()

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                self._give_sign()
            except DatabaseError as error:
                log.warning("could not say that this worker is alive: %s", error)
            # The pause varies, because the children of a machine start in the same second.
            self._ended.wait(self._seconds * random.uniform(0.8, 1.0))  # noqa: S311 - no secret

    def _give_sign(self) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            known = self._worker_id
            if known is None:
                self._register(patience=_PATIENCE_SECONDS)
            else:
                self._database.run(
                    lambda session: shifts.see_worker(session, known), patience=_PATIENCE_SECONDS
                )
            self._database.close()

    def _register(self, **patience: float) -> int:
        host, pid = socket.gethostname(), os.getpid()
        self._worker_id = self._database.run(
            lambda session: shifts.register_worker(
                session,
                name=f"{os.environ.get(_NODE) or host}:{pid}",  # begins as in Flower and in logs
                host=host,
                pid=pid,
                device=self._device,
                route=self._route,
                labels=self._labels,
            ),
            **patience,
        )
        return self._worker_id
