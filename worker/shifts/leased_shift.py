"""A shift from its start to its end, whatever its work is: its lease, its log, and its reason."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import ServiceError
from imagemill.db.process.logs import log_fields
from imagemill.db.queries.work import claims, shifts
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.worker_context import WorkerContext

log = logging.getLogger(__name__)

_REASON_LENGTH = 32
"""The longest text that `shifts.end_reason` holds."""


@dataclass(kw_only=True, slots=True)
class ShiftEnd:
    """How a shift ended: why, after how long, and how many images it gave back without a charge."""

    seconds: float = 0.0
    given_back: int = 0
    reason: str = ""


@contextmanager
def leased_shift(context: WorkerContext, *, end: ShiftEnd) -> Iterator[Lease]:
    """Start a shift, hold its lease while the block works, and end it; fills in `end`.

    A `ServiceError` of the block is its reason, and is raised after everything was given back.
    """
    started = time.monotonic()
    database, settings = context.database, context.settings
    shift_id = database.run(
        lambda session: shifts.start_shift(
            session, worker_id=context.worker_id, lease_seconds=settings.lease_seconds
        )
    )
    lease = Lease.of_shift(shift_id, database=database, settings=settings)
    with log_fields(shift=shift_id), lease:
        try:
            yield lease
        except ServiceError as error:
            end.reason = f"{error.code}: {error}"
            raise
        finally:
            _give_back(database, lease, end)
            end.seconds = time.monotonic() - started
            log.info("shift %s ended: %s", shift_id, end)


def _give_back(database: Database, lease: Lease, end: ShiftEnd) -> None:
    """Give back everything without a charge, and close the shift."""
    if lease.lost:
        return  # nothing that we say counts any more; the rescuer releases what it held

    def work(session: Session) -> int:
        count = claims.give_back(session, shift_id=lease.shift_id)
        reason = end.reason[:_REASON_LENGTH]
        shifts.end_shift(session, shift_id=lease.shift_id, reason=reason)
        return count

    with lease.waiting():
        end.given_back += database.run(work, patience=lease.seconds_left)
