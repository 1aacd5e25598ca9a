"""Why a shift must stop: which reason comes first, and how long the store may still take files."""

import math
from dataclasses import dataclass
from typing import Any

from imagemill.worker.shifts.stop_reason import NoDrain, Stop, StopReason, StopRule

RULE = StopRule(ends=100.0, drain_seconds=40.0)


@dataclass
class FakeLease:
    lost: bool = False
    drained_since: float | None = None


def stop(now: float, *, since: float | None = None, **lease: Any) -> Stop | None:
    fake: Any = FakeLease(**lease)
    return RULE.stop(now=now, lease=fake, drain=NoDrain(since=since))


def test_goes_on_while_there_is_time():
    assert stop(100.0) is None


def test_the_store_has_some_minutes_after_the_time_is_over():
    assert stop(101.0) == Stop(reason=StopReason.TIME_OVER, store_until=400.0)


def test_a_drain_leaves_the_store_half_of_its_time_from_when_it_was_told():
    draining = Stop(reason=StopReason.DRAINING, store_until=70.0)
    assert stop(60.0, since=50.0) == draining
    assert stop(60.0, drained_since=50.0) == draining
    assert stop(60.0, since=55.0, drained_since=50.0) == draining


def test_a_drain_comes_before_the_end_of_the_time_and_gives_the_store_no_more():
    assert stop(390.0, since=385.0) == Stop(reason=StopReason.DRAINING, store_until=400.0)


def test_a_lost_lease_comes_first_and_leaves_no_time():
    lost = stop(390.0, since=385.0, lost=True)
    assert lost == Stop(reason=StopReason.LEASE_LOST, store_until=-math.inf)


def test_memory_ends_a_shift_that_nothing_else_ends():
    lease: Any = FakeLease()
    memory = RULE.stop(now=99.0, lease=lease, drain=NoDrain(), over_memory=True)
    assert memory == Stop(reason=StopReason.MEMORY, store_until=400.0)
    over = RULE.stop(now=101.0, lease=lease, drain=NoDrain(), over_memory=True)
    assert over is not None
    assert over.reason == StopReason.TIME_OVER
