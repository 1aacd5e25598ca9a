"""A lease: renewed while the shift makes progress, and lost in time; the end of a hung process."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from imagemill.db.errors import DatabaseError
from imagemill.db.tables import Shift, Worker
from imagemill.worker.shifts.lease import Lease
from tests.helpers.mill import Mill

LEASE = 0.6
"""Where its end is the subject: a busy machine may lose it at any time."""

LONG = 600.0
"""Where it must hold."""

HEARTBEAT = 0.1
HANG = 0.2


class Progress:
    """An engine that makes steps until told to stand still."""

    def __init__(self) -> None:
        self.value = 0
        self.still = False

    @property
    def steps(self) -> int:
        if not self.still:
            self.value += 1
        return self.value


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def ended() -> list[int]:
    """The exit codes of a process that ended itself."""
    return []


def made(mill: Mill, progress: Progress, ended: list[int], seconds: float) -> Lease:
    lease = Lease(
        database=mill.database,
        shift_id=mill.shift(lease_seconds=LONG),
        lease_seconds=seconds,
        heartbeat_seconds=HEARTBEAT,
        hang_seconds=HANG,
        patience_seconds=0.2,
        end_process=ended.append,
    )
    lease.follow(progress)
    return lease


@pytest.fixture
def lease(mill: Mill, progress: Progress, ended: list[int]) -> Iterator[Lease]:
    """One that holds, with a heartbeat that is quick."""
    with made(mill, progress, ended, LONG) as lease:
        yield lease


def renewed_for(mill: Mill, lease: Lease, seconds: float) -> bool:
    """Whether the lease is renewed, in the database, at the end of so many seconds from now."""

    def until() -> datetime:
        with mill.database.reading() as session:
            return session.get_one(Shift, lease.shift_id).lease_until

    first = until()
    return soon(lambda: until() - first > timedelta(seconds=seconds))


def soon(what: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether it is so within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.01)
    return False


def test_lives_on_while_work_gets_on(mill: Mill, lease: Lease) -> None:
    mill.load("job", ["a"])
    assert renewed_for(mill, lease, 3 * HANG)
    assert not lease.lost
    assert 0 < lease.seconds_left <= LONG
    assert mill.claim(lease.shift_id), "the database says that the lease is over"


def test_a_step_that_stands_still_for_too_long_ends_it(
    mill: Mill, progress: Progress, ended: list[int]
) -> None:
    mill.load("job", ["a"])
    lease = made(mill, progress, ended, LEASE)
    assert mill.claim(lease.shift_id)
    assert mill.renew(lease.shift_id, lease_seconds=LEASE)
    progress.still = True
    with lease:
        assert soon(lambda: lease.lost)
        assert soon(lambda: ended == [70]), "a hung process must end itself"
        # The database counts from the moment at which it recorded the last renewal, a bit later.
        assert soon(lambda: mill.rescue() == 1)
        assert mill.claim(lease.shift_id) == []


def test_standing_still_is_no_reason_once_it_gets_on(
    mill: Mill, lease: Lease, progress: Progress
) -> None:
    progress.still = True
    time.sleep(2 * HANG)
    progress.still = False
    assert renewed_for(mill, lease, HEARTBEAT)
    assert not lease.lost


def test_waiting_counts_as_progress(mill: Mill, lease: Lease, progress: Progress) -> None:
    progress.still = True
    with lease.waiting():
        assert renewed_for(mill, lease, 3 * HANG)
        assert not lease.lost


def test_noted_progress_needs_no_engine(mill: Mill, lease: Lease, progress: Progress) -> None:
    """The store may be down for longer than a step may take."""
    progress.still = True
    over = threading.Event()

    def try_again() -> None:
        while not over.wait(HANG / 4):
            lease.note_progress()

    thread = threading.Thread(target=try_again)
    thread.start()
    try:
        assert renewed_for(mill, lease, 3 * HANG)
    finally:
        over.set()
        thread.join()
    assert not lease.lost


def test_an_order_to_drain_has_a_time(mill: Mill, lease: Lease) -> None:
    assert lease.drained_since is None
    before = time.monotonic()
    mill.database.run(lambda session: session.execute(update(Worker).values(draining=True)))
    assert soon(lambda: lease.drained_since is not None)
    first = lease.drained_since
    assert first is not None
    assert first >= before
    time.sleep(0.3)
    assert lease.drained_since == first


def test_a_shift_that_notices_in_time_keeps_its_process(
    mill: Mill, progress: Progress, ended: list[int]
) -> None:
    lease = Lease(
        database=mill.database,
        shift_id=mill.shift(lease_seconds=LEASE),
        lease_seconds=LEASE,
        heartbeat_seconds=0.1,
        hang_seconds=0.1,
        patience_seconds=LONG,
        end_process=ended.append,
    )
    progress.still = True
    lease.follow(progress)
    with lease:
        assert soon(lambda: lease.lost)
    time.sleep(0.1)
    assert ended == []


def test_is_lost_when_somebody_ended_the_shift(mill: Mill, lease: Lease) -> None:
    mill.end(lease.shift_id)
    assert soon(lambda: lease.lost)
    assert lease.seconds_left == 0


def test_is_lost_before_its_end_when_the_database_is_away(
    mill: Mill, progress: Progress, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise DatabaseError("gone")

    lease = made(mill, progress, ended, LEASE)
    # Before the first heartbeat, however late this thread goes on.
    monkeypatch.setattr(mill.database, "run", away)
    with lease:
        assert soon(lambda: lease.lost)
    monkeypatch.undo()
    assert mill.rescue() == 0, "by the database's clock it is not over yet"


def test_a_frozen_process_knows_at_once_that_it_is_lost(mill: Mill) -> None:
    """After SIGCONT the clock says so; no thread needs to have run."""
    lease = Lease(
        database=mill.database,
        shift_id=mill.shift(lease_seconds=0.1),
        lease_seconds=0.1,
        heartbeat_seconds=0.1,
        hang_seconds=60,
    )
    time.sleep(0.1)
    assert lease.lost


def test_a_heartbeat_brings_orders(mill: Mill, lease: Lease) -> None:
    job = mill.load("job", ["a"])
    mill.claim(lease.shift_id)
    first = lease.orders
    mill.pause(job)
    assert soon(lambda: lease.orders.stopped_jobs == {job})
    assert lease.orders is not first


def test_its_thread_ends_with_it(mill: Mill, lease: Lease) -> None:
    name = f"lease-{lease.shift_id}"
    lease.__exit__()
    assert soon(lambda: name not in {thread.name for thread in threading.enumerate()})
