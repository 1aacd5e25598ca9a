"""What befalls the servers of a campaign: they lose their data, are killed, or stand still."""

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tests.chaos.pace import Pace
from tests.chaos.recovery import Recovery
from tests.chaos.stage import Stage

_STALL_SECONDS = 0.5
_SLOW_SECONDS = 1.0
_MOST_LEASES = 2.0
"""The least, and the most in leases. A worker whose database stands still for longer than its lease
loses it."""

_AHEAD_SECONDS = (1.0, 3600.0)
"""How far the database's clock jumps. Never back: what a dead worker holds would be free that
much later (see `docs/reliability.md`), and a campaign waits for everything."""

_OFF_SECONDS = (60.0, 30 * 86400.0)
"""How far the processes' clock is off, ahead or back, and for how long. S3 refuses it beyond a
quarter of an hour."""
_OFF_FOR_SECONDS = (1.5, 4.0)


class Note(Protocol):
    """Counts a fault under its name, and writes it into the history."""

    def __call__(self, name: str, **values: object) -> None: ...


class Outages:
    """Each of `loops` waits a while and breaks one server in one way, if the plan wants more."""

    def __init__(
        self, stage: Stage, *, pace: Pace, dice: random.Random, recovery: Recovery, note: Note
    ) -> None:
        self._stage = stage
        self._pace = pace
        self._dice = dice
        self._recovery = recovery
        self._note = note
        # A server is broken in one way at a time: nobody stalls one that is being started.
        self._locks = {name: threading.Lock() for name in ("database", "store", "broker")}

    @property
    def loops(self) -> list[Callable[[], None]]:
        """One for each kind of outage; to be called again and again, each in its own thread."""
        return [
            self._lose_broker,
            self._restart_postgres,
            self._kill_store,
            self._stall,
            self._slow_down,
            self._set_clock,
        ]

    def _lose_broker(self) -> None:
        if self._pace.over("broker losses", 0.5, 2.5):
            return
        with self._locks["broker"]:
            self._recovery.broker_lost(at=time.time())
            if self._dice.random() < 0.5:
                self._stage.flush_broker()
            else:
                self._stage.kill_broker()
                self._note("kill broker")
        self._note("broker losses")

    def _restart_postgres(self) -> None:
        if self._pace.over("Postgres restarts", 2, 5):
            return
        with self._locks["database"]:
            if self._dice.random() < 0.5:
                self._stage.postgres.restart()
            else:
                self._stage.kill_postgres()
                self._note("kill database")
        self._note("Postgres restarts")

    def _kill_store(self) -> None:
        if self._pace.over("store deaths", 1, 4):
            return
        with self._locks["store"]:
            self._recovery.store_lost(at=time.time())
            self._stage.seaweed.kill()
            self._note("kill store")
            self._pace.stopped.wait(self._dice.uniform(0, 2))
            self._stage.seaweed.start()
        self._note("store deaths")

    def _stall(self) -> None:
        if self._pace.over("stalls", 1, 4):
            return
        name = self._dice.choice(sorted(self._locks))
        with self._locks[name]:
            self._note(f"stall {name}")
            self._stage.stall(name, self._seconds(_STALL_SECONDS))
        self._note("stalls")

    def _slow_down(self) -> None:
        if self._pace.over("slow disks", 1, 4):
            return
        name = self._dice.choice(sorted(self._locks))
        with self._locks[name]:
            self._note(f"slow {name}")
            self._stage.slow_down(name, self._seconds(_SLOW_SECONDS))
        self._note("slow disks")

    def _seconds(self, least: float) -> float:
        return self._dice.uniform(least, _MOST_LEASES * self._stage.lease_seconds)

    def _set_clock(self) -> None:
        if self._pace.over("clock jumps", 1, 4):
            return
        clock = self._stage.clock
        if clock is None or self._dice.random() < 0.5:
            with self._locks["database"]:
                ahead = self._dice.uniform(*_AHEAD_SECONDS)
                self._stage.database_clock.advance(ahead)
                self._recovery.clock_set(ahead)
                self._note("clock database", ahead=ahead)
        else:
            off = self._dice.choice((1, -1)) * self._dice.uniform(*_OFF_SECONDS)
            self._note("clock processes", ahead=off)
            clock.jump(off)
            self._pace.stopped.wait(self._dice.uniform(*_OFF_FOR_SECONDS))
            clock.jump(0)
        self._note("clock jumps")
