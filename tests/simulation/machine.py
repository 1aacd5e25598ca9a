"""Histories that hypothesis invents, and makes small when they break a promise."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from imagemill.db.queries.jobs import lifecycle
from tests.simulation.world import LEASE_SECONDS, Broken, World

small = st.integers(0, 3)
often = st.sampled_from(["claim"] * 4 + ["begin"] * 3 + ["complete", "fail"] * 2)
seldom = st.sampled_from(["renew", "give_back", "end", "finish_known", "meddle", "die", "die"])
waits = st.sampled_from([1, 6, LEASE_SECONDS / 2, LEASE_SECONDS, LEASE_SECONDS + 1])
steering = st.sampled_from([lifecycle.cancel, lifecycle.pause, lifecycle.resume, lifecycle.resume])


class Histories(RuleBasedStateMachine):
    """One instance is one history. Few rules with many meanings: hypothesis leaves whole rules
    out of a history, and a history in which nobody claims teaches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ruined = False

    @initialize(which=small)
    def open_shop(self, which: int) -> None:
        self._do("submit", which, 9)

    @rule(step=often, who=small, count=st.integers(1, 4))
    def work(self, step: str, who: int, count: int) -> None:
        if len(self.world.workers) <= who % 3:
            self._do("start")
        self._do(step, who, count)

    @rule(step=often, other=seldom, who=small, count=st.integers(1, 4))
    def work_and(self, step: str, other: str, who: int, count: int) -> None:
        self.work(step, who, count)
        self._do(other, who, count)

    @rule(which=small, chunks=small)
    def submit(self, which: int, chunks: int) -> None:
        self._do("submit", which, chunks)

    @rule(which=small, action=steering)
    def steer(self, which: int, action) -> None:
        self._do("steer", which, action)

    @rule(which=small, step=st.sampled_from(["retry", "retry", "requeue", "reject"]))
    def retry(self, which: int, step: str) -> None:
        self._do(step, which)

    @rule(times=st.integers(1, 4), count=st.integers(1, 4), dies=st.booleans())
    def crash(self, times: int, count: int, dies: bool) -> None:
        """Worker after worker begins what there is and is not heard of until its lease is over."""
        for _ in range(times):
            self._do("start")
            self._do("claim", -1, count)
            self._do("begin", -1, count)
            self._do("wait", LEASE_SECONDS + 1)
            self._do("die" if dies else "renew", -1)
            self._do("rescue")

    @rule(seconds=waits, rescue=st.booleans(), maintain=st.booleans(), doubt=st.booleans())
    def wait(self, seconds: float, rescue: bool, maintain: bool, doubt: bool) -> None:
        """From now on every commit's outcome is unknown, or none is."""
        self.world.again = doubt
        self._do("wait", seconds)
        if rescue:
            self._do("rescue")
        if maintain:
            self._do("maintain")

    def teardown(self) -> None:
        self._do("heal")

    def _do(self, step: str, *args: object) -> None:
        if self.ruined:  # nothing more to learn from this history
            return
        try:
            getattr(self.world, step)(*args)
        except Broken:
            self.ruined = True
            raise
