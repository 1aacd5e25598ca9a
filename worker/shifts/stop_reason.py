"""Why a shift must stop, as a value that the shift works out between two steps.

Nothing below the shift asks whether to stop: a run does one step and returns, and a recorder is
waited for a moment at a time.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from imagemill.db.settings import Settings
from imagemill.worker.shifts.lease import Lease

_STORE_SECONDS = 300.0
"""How long after its time a shift still waits for a store to take what is rendered."""

_STORE_PART_OF_DRAIN = 0.5
"""The part of a drain's time in which the store may still take what is rendered."""


class StopReason(StrEnum):
    """Why a shift stops before its work is done; the text stands in its report."""

    LEASE_LOST = "lease lost"
    DRAINING = "draining"
    TIME_OVER = "time is over"
    MEMORY = "memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """That a shift must stop at this step boundary.

    `store_until` says until when (by the monotonic clock) the store may still take what is
    rendered already.
    """

    reason: StopReason
    store_until: float


class Drain(Protocol):
    """Whether a process was told to stop. `since` is when, by the monotonic clock, or None."""

    @property
    def since(self) -> float | None:
        """When the process was told to stop; None if it was not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoDrain:
    """For a process that nobody tells to stop."""

    since: float | None = None


class MemoryLimit(Protocol):
    """Whether a process holds more memory than it may."""

    def passed(self) -> bool:
        """Whether the process has passed its limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoMemoryLimit:
    """For a process that may hold any amount of memory."""

    def passed(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """When one shift stops: its time is over at `ends`, by the monotonic clock."""

    ends: float
    drain_seconds: float

    @classmethod
    def from_settings(cls, settings: Settings, *, started: float) -> "StopRule":
        """The rule for a shift that started then."""
        return cls(ends=started + settings.shift_seconds, drain_seconds=settings.drain_seconds)

    @property
    def store_until(self) -> float:
        """Until when the store may take files of a shift that nobody stops."""
        return self.ends + _STORE_SECONDS

    def stop(
        self, *, now: float, lease: Lease, drain: Drain, over_memory: bool = False
    ) -> Stop | None:
        """Why to stop at this step boundary, or None to go on.

        `over_memory` says that the process holds too much memory and should end.

        A lost lease comes first, because nothing that the shift does counts any more. A drain
        comes before the end of the time, because it leaves the store less time.
        """
        if lease.lost:
            return Stop(reason=StopReason.LEASE_LOST, store_until=-math.inf)
        told = [since for since in (drain.since, lease.drained_since) if since is not None]
        if told:
            until = min(told) + self.drain_seconds * _STORE_PART_OF_DRAIN
            return Stop(reason=StopReason.DRAINING, store_until=min(until, self.store_until))
        if now > self.ends:
            return Stop(reason=StopReason.TIME_OVER, store_until=self.store_until)
        if over_memory:
            return Stop(reason=StopReason.MEMORY, store_until=self.store_until)
        return None
