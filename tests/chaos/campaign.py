"""A campaign: work is submitted without end while every kind of fault is injected, as often as
planned; then the faults stop, the work must end, and a checker counts again."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from redis.exceptions import RedisError

from tests.chaos.crashes import Role
from tests.chaos.history import History, read_history
from tests.chaos.plan import Manifests, Plan
from tests.chaos.stage import HANG_SECONDS, LEASE_SECONDS, Stage
from tests.chaos.troupe import Actor, Troupe
from tests.servers.s3_proxy import Fault, FaultPlan

SETTLE_SECONDS = 180
"""I7: how long after the last fault everything must be terminal."""

_FREEZERS = 3

_AHEAD = 0.02
"""The part of its plan that a kind of fault may be ahead of the slowest."""

_S3_WEIGHTS = dict.fromkeys(Fault, 1.0) | {
    Fault.FORBIDDEN_403: 0.1,  # ends a shift
    Fault.HANG: 0.5,
}


class Campaign:
    """One campaign on a stage. `counts` says what was broken so far."""

    def __init__(self, plan: Plan, stage: Stage, folder: Path) -> None:
        self.plan = plan
        self.stage = stage
        self.history = History(folder / "history.jsonl")
        self.counts: Counter[str] = Counter()
        self._dice = random.Random(plan.seed)
        self._manifests = Manifests(
            folder / "manifests", random.Random(plan.seed + 1), poison=plan.poison
        )
        self._submitted: list[str] = []
        self._stop = threading.Event()
        self._ends = time.monotonic() + plan.minutes * 60
        self._pg_lock = threading.Lock()
        self._frozen: set[int] = set()
        self._unfenced: list[str] = []
        self._troupe = Troupe(
            folder,
            environment=stage.environment,
            history=self.history,
            seed=plan.seed + 2,
            chance=plan.crash_chance,
        )

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.counts.items() if name.startswith("kill "))

    def run(self, report: Callable[[str], None]) -> bool:
        """Break things until the plan is fulfilled, then let everything settle; whether it did.

        `report` hears every second how much of the plan is fulfilled.
        """
        plan = self.plan
        self.stage.proxy.plan = _s3_plan(plan)
        for _ in range(plan.workers):
            self._troupe.start("worker")
        for _ in range(plan.dispatchers):
            self._troupe.start("dispatcher")
        loops: list[Callable[[], None]] = [self._submit, self._kill, self._lose_broker]
        loops += [self._restart_postgres, *([self._freeze] * _FREEZERS)]
        threads = [threading.Thread(target=self._looped, args=[loop]) for loop in loops]
        for thread in threads:
            thread.start()
        while not self.fulfilled and time.monotonic() < self._ends:
            self._stop.wait(1)
            self._count_crashes()
            report(", ".join(f"{name} {share:.0%}" for name, share in self._shares().items()))
        self._stop.set()
        for thread in threads:
            thread.join()
        return self._settle()

    def close(self) -> None:
        self._troupe.end()

    # What is broken ------------------------------------------------------------------------

    def _looped(self, loop: Callable[[], None]) -> None:
        while not self._stop.is_set():
            # Between a restart and the next connection, anything may be away.
            with suppress(psycopg.Error, RedisError, OSError):
                loop()

    def _submit(self) -> None:
        if self._stop.wait(0.3):
            return
        [(waiting,)] = self.stage.query(
            "SELECT count(*) FROM images WHERE state IN ('ready', 'leased')"
        )
        if waiting + 30 * len(self._troupe.alive("producer")) >= self.plan.backlog:
            return
        manifest = self._manifests.write()
        self._submitted.append(manifest.name)
        # Before anybody can submit it: what was asked for does not depend on what came of it.
        self.history.add(
            "manifest", name=manifest.name, path=str(manifest.path), rows=manifest.rows
        )
        self._troupe.start("producer", name=manifest.name, manifest=str(manifest.path))

    def _kill(self) -> None:
        if self._over("kills", 0.1, 0.6):
            return
        roles: list[Role] = ["worker"] * 7 + ["producer"] * 2 + ["dispatcher"]  # type: ignore[list-item]
        alive = self._troupe.alive(self._dice.choice(roles)) or self._troupe.alive()
        chosen = [actor for actor in alive if actor.pid not in self._frozen]
        if chosen and self._troupe.kill(actor := self._dice.choice(chosen)):
            self._note(f"kill {actor.role}", victim=actor.pid)

    def _lose_broker(self) -> None:
        if self._over("broker losses", 0.5, 2.5):
            return
        if self._dice.random() < 0.5:
            self.stage.flush_broker()
        else:
            self.stage.kill_broker()
            self._note("kill broker")
        self._note("broker losses")

    def _restart_postgres(self) -> None:
        if self._over("Postgres restarts", 2, 5):
            return
        with self._pg_lock:
            if self._dice.random() < 0.5:
                self.stage.postgres.restart()
            else:
                self.stage.kill_postgres()
                self._note("kill database")
        self._note("Postgres restarts")

    def _freeze(self) -> None:
        """Stop a worker in the middle of its work until another has it, then let it go on."""
        if self._over("freezes", 0.05, 0.2):
            return
        busy = self._holders()
        alive = self._troupe.alive("worker")
        workers = [a for a in alive if a.pid in busy and a.pid not in self._frozen]
        if not workers:
            return
        actor = self._dice.choice(workers)
        self._frozen.add(actor.pid)
        try:
            os.kill(actor.pid, signal.SIGSTOP)
            try:
                self._wait_for_fence(actor)
            finally:
                os.kill(actor.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it ended by itself just before
        finally:
            self._frozen.discard(actor.pid)

    def _wait_for_fence(self, actor: Actor) -> None:
        shift = self._holders().get(actor.pid)
        if shift is None:
            return  # it was idle: a freeze that proves nothing
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.1)
            with suppress(psycopg.Error):
                ended = self.stage.query(
                    "SELECT end_reason FROM shifts WHERE id = %s AND ended_at IS NOT NULL", shift
                )
                if ended == [("lost",)]:
                    self._note("freezes", shift=shift, victim=actor.pid)
                if ended:
                    return
        self._unfenced.append(f"shift {shift} was still live 60 s after its worker was stopped")

    def _holders(self) -> dict[int, int]:
        """The live shifts that hold images, by their process."""
        found = self.stage.query(
            "SELECT w.pid, s.id FROM shifts s JOIN workers w ON w.id = s.worker_id"
            " WHERE s.ended_at IS NULL AND s.lease_until > clock_timestamp()"
            " AND EXISTS (SELECT 1 FROM images WHERE shift_id = s.id AND state = 'leased')"
        )
        return dict(found)

    # How it goes on ------------------------------------------------------------------------

    def _over(self, name: str, least: float, most: float) -> bool:
        """Pause; whether enough of this was broken, for good or for the moment.

        All kinds keep step with the slowest: a thousand kills in the first minutes would leave
        no worker alive for long enough to meet the other faults.
        """
        if self._stop.wait(self._dice.uniform(least, most)):
            return True
        share = self._shares()
        return share[name] >= 1 or share[name] > min(share.values()) + _AHEAD

    def _shares(self) -> dict[str, float]:
        """How much of the plan is fulfilled, by kind."""
        plan = self.plan
        wanted = {
            "kills": plan.kills,
            "broker losses": plan.broker_losses,
            "Postgres restarts": plan.pg_restarts,
            "S3 faults": plan.s3_faults,
            "freezes": plan.freezes,
        }
        broken = self.counts | {"kills": self.kills}
        return {name: broken.get(name, 0) / max(count, 1) for name, count in wanted.items()}

    def _note(self, name: str, **values: Any) -> None:
        self.counts[name] += 1
        self.history.add(name, **values)

    def _count_crashes(self) -> None:
        crashes = Counter(
            event["role"] for event in read_history(self.history.path) if event["event"] == "crash"
        )
        for role, count in crashes.items():
            self.counts[f"kill {role} at a crash point"] = count
        self.counts["S3 faults"] = sum(self.stage.proxy.injected.values())

    @property
    def fulfilled(self) -> bool:
        """Whether everything was broken as often as planned."""
        return min(self._shares().values()) >= 1

    def _settle(self) -> bool:
        """No faults any more: everything must become terminal; whether it did in time."""
        self._count_crashes()
        self.stage.proxy.plan = FaultPlan()
        self.history.add("faults over")
        self._troupe.chance = 0
        for actor in self._troupe.alive():
            self._troupe.kill(actor)
        deadline = time.monotonic() + SETTLE_SECONDS + HANG_SECONDS + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.3)
            if self._all_terminal():
                self.history.add("settled")
                return True
        return False

    def _all_terminal(self) -> bool:
        [(jobs, finished)] = self.stage.query(
            "SELECT count(*), count(*) FILTER (WHERE state = 'finished') FROM jobs"
        )
        return bool(jobs == finished == len(self._submitted))

    def submit_again(self) -> None:
        """Every manifest once more, which must change nothing (I6)."""
        actors = [
            self._troupe.start("producer", name=event["name"], manifest=event["path"])
            for event in read_history(self.history.path)
            if event["event"] == "manifest"
        ]
        for actor in actors:
            actor.ended.wait(120)

    @property
    def unfenced(self) -> list[str]:
        return self._unfenced

    @property
    def ends(self) -> Counter[str]:
        return self._troupe.ends


def _s3_plan(plan: Plan) -> FaultPlan:
    total = sum(_S3_WEIGHTS.values())
    rates = {fault: plan.s3_fault_share * weight / total for fault, weight in _S3_WEIGHTS.items()}
    return FaultPlan(rates=rates, seed=plan.seed + 3)
