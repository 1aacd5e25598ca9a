"""Histories that hypothesis invents, and makes small when they break a promise."""

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from db.queries import jobs
from tests.simulation.world import LEASE_SECONDS, Broken, World

small = st.integers(0, 3)
with_workers = precondition(lambda self: self.world.workers)
with_jobs = precondition(lambda self: self.world.jobs)


class Histories(RuleBasedStateMachine):
    """One instance is one history."""

    started: ClassVar[int] = 0
    broken: ClassVar[list[str]] = []
    raising: ClassVar[bool] = True
    """Whether a broken promise raises, so that hypothesis looks for the smallest history."""

    def __init__(self) -> None:
        super().__init__()
        type(self).started += 1
        self.world = World()
        self.ruined = False

    @initialize(which=small)
    def open_shop(self, which: int) -> None:
        self._do("submit", which, 9)
        self._do("start")

    @rule(again=st.booleans())
    def doubt(self, again: bool) -> None:
        """From now on every commit's outcome is unknown, or none is."""
        self.world.again = again

    @rule(which=small, chunks=small)
    def submit(self, which: int, chunks: int) -> None:
        self._do("submit", which, chunks)

    @with_jobs
    @rule(which=small)
    def reject(self, which: int) -> None:
        self._do("reject", which)

    @precondition(lambda self: len(self.world.workers) < 4)
    @rule()
    def start(self) -> None:
        self._do("start")

    @with_workers
    @rule(who=small)
    def die(self, who: int) -> None:
        self._do("die", who)

    @with_workers
    @rule(who=small, limit=st.integers(1, 4))
    def claim(self, who: int, limit: int) -> None:
        self._do("claim", who, limit)

    @with_workers
    @rule(who=small)
    def renew(self, who: int) -> None:
        self._do("renew", who)

    @with_workers
    @rule(who=small, count=st.integers(1, 4))
    def begin(self, who: int, count: int) -> None:
        self._do("begin", who, count)

    @with_workers
    @rule(who=small, count=st.integers(1, 4), content=st.sampled_from(["", "other"]))
    def complete(self, who: int, count: int, content: str) -> None:
        self._do("complete", who, count, content)

    @with_workers
    @rule(who=small)
    def finish_known(self, who: int) -> None:
        self._do("finish_known", who)

    @with_workers
    @rule(who=small, retryable=st.booleans())
    def fail(self, who: int, retryable: bool) -> None:
        self._do("fail", who, retryable)

    @with_workers
    @rule(who=small)
    def give_back(self, who: int) -> None:
        self._do("give_back", who)

    @with_workers
    @rule(who=small)
    def end(self, who: int) -> None:
        self._do("end", who)

    @with_jobs
    @rule(which=small, action=st.sampled_from([jobs.cancel, jobs.pause, jobs.resume]))
    def steer(self, which: int, action) -> None:
        self._do("steer", which, action)

    @with_jobs
    @rule(which=small)
    def retry(self, which: int) -> None:
        self._do("retry", which)

    @rule()
    def rescue(self) -> None:
        self._do("rescue")

    @rule()
    def maintain(self) -> None:
        self._do("maintain")

    @rule(seconds=st.sampled_from([1, 6, LEASE_SECONDS / 2, LEASE_SECONDS, LEASE_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self._do("wait", seconds)

    def teardown(self) -> None:
        self._do("heal")

    def _do(self, step: str, *args: object) -> None:
        if self.ruined:
            return
        try:
            getattr(self.world, step)(*args)
        except Broken as broken:
            self.ruined = True
            if self.raising:
                raise
            self.broken.append(f"history {self.started}: {broken}")
