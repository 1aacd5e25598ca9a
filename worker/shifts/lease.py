"""A shift's lease: a thread renews it, but only while the shift makes progress.

A forward pass that hangs stops the renewals, so the images go to somebody else when the lease is
over. A shift that could not renew in time learns it here a little before that, by its own clock:
it must stop and discard its work.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from imagemill.db.database import Database
from imagemill.db.errors import DatabaseError
from imagemill.db.process.logs import log_fields
from imagemill.db.queries.work import shifts
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

_LONGEST_TICK_SECONDS = 0.25
_MARGIN = 0.1
"""The last part of a lease, in which the shift already counts it as lost."""

_EXIT_HUNG = 70
"""EX_SOFTWARE: the exit status of a child that hangs beyond its lease."""


class Stepping(Protocol):
    """Something that works in steps: an engine."""

    @property
    def steps(self) -> int:
        """The steps so far."""


class Lease:
    """Keeps one shift's lease alive from a thread of its own; a context manager.

    It is renewed while the shift makes progress: while the engine that it follows makes steps, or
    somebody calls `note_progress`. After `hang_seconds` of neither, the lease is left to end.
    Then, or when the database could not be told in time, `lost` is true. A main thread that does
    not notice within `patience_seconds` is hung for good: the process ends itself, and Celery
    starts another.

    More than seven parameters: each time is a setting of its own.
    """

    @classmethod
    def of_shift(cls, shift_id: int, *, database: Database, settings: Settings) -> "Lease":
        """A lease with the times of the settings."""
        return cls(
            database=database,
            shift_id=shift_id,
            lease_seconds=settings.lease_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            hang_seconds=settings.hang_seconds,
            patience_seconds=settings.lease_seconds,
        )

    def __init__(
        self,
        *,
        database: Database,
        shift_id: int,
        lease_seconds: float,
        heartbeat_seconds: float,
        hang_seconds: float,
        patience_seconds: float = 60.0,
        end_process: Callable[[int], None] = os._exit,
    ) -> None:
        self.shift_id = shift_id
        self._database = database
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = min(heartbeat_seconds, lease_seconds / 4)
        self._hang_seconds = hang_seconds
        self._tick_seconds = min(_LONGEST_TICK_SECONDS, lease_seconds / 10)
        self._patience_seconds = patience_seconds
        self._end_process = end_process
        self._until = time.monotonic() + lease_seconds * (1 - _MARGIN)
        self._orders = shifts.Orders(draining=False, stopped_jobs=frozenset())
        self._drained_since: float | None = None
        self._engine: Stepping | None = None
        self._noted = 0
        self._waiting = 0
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{shift_id}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the shift must stop and discard what it holds."""
        return self.seconds_left == 0

    @property
    def seconds_left(self) -> float:
        """How long the shift may still change something; 0 once the lease is lost."""
        if self._lost.is_set():
            return 0.0
        return max(0.0, self._until - time.monotonic())

    @property
    def orders(self) -> shifts.Orders:
        """What the last heartbeat brought: a new object after every heartbeat."""
        return self._orders

    @property
    def drained_since(self) -> float | None:
        """When a heartbeat first brought the order to drain, by the monotonic clock, or None."""
        return self._drained_since

    @property
    def progress(self) -> int:
        """A number that changes while the shift makes progress."""
        return self._noted + (0 if self._engine is None else self._engine.steps)

    def follow(self, engine: Stepping) -> None:
        """From now on, a step of this engine counts as progress."""
        self._engine = engine

    def note_progress(self) -> None:
        """Say that the shift made progress. Any thread may: two calls at once may count as one."""
        self._noted += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as progress, however long it takes: loading a model."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=1.0)

    def _keep(self) -> None:
        with log_fields(shift=self.shift_id):
            self._renew_until_ended()

    def _renew_until_ended(self) -> None:
        renewed_at = changed_at = time.monotonic()
        progress = self.progress
        while not self._ended.wait(self._tick_seconds):
            if self.lost:
                self._stand_by()
                return
            if self.progress != progress or self._waiting:
                progress, changed_at = self.progress, time.monotonic()
            if time.monotonic() - changed_at >= self._hang_seconds:
                continue
            if time.monotonic() - renewed_at < self._heartbeat_seconds:
                continue
            started = time.monotonic()
            try:
                orders = self._renew()
            except DatabaseError as error:
                log.warning("shift %s could not renew its lease: %s", self.shift_id, error)
                continue
            if orders is None:
                self._lost.set()
                continue
            self._orders = orders
            if orders.draining and self._drained_since is None:
                self._drained_since = time.monotonic()
            renewed_at = started
            self._until = started + self._lease_seconds * (1 - _MARGIN)

    def _renew(self) -> shifts.Orders | None:
        return self._database.run(
            lambda session: shifts.renew(
                session, shift_id=self.shift_id, lease_seconds=self._lease_seconds
            ),
            patience=self.seconds_left,
        )

    def _stand_by(self) -> None:
        """Give the main thread time to notice; end the process if it never does."""
        self._lost.set()
        log.warning("shift %s lost its lease", self.shift_id)
        if not self._ended.wait(self._patience_seconds):
            log.critical(
                "shift %s hung for %.0f s beyond its lease; ending this process",
                self.shift_id,
                self._patience_seconds,
            )
            self._end_process(_EXIT_HUNG)
