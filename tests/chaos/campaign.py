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
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from redis.exceptions import RedisError

from imagemill.db.errors import ServiceError
from tests.chaos.crashes import Role
from tests.chaos.history import History, read_history
from tests.chaos.outages import Outages
from tests.chaos.pace import Pace
from tests.chaos.plan import RENDERER_ROUTE, Manifest, Manifests, Plan
from tests.chaos.recovery import Recovery
from tests.chaos.settling import Settling, snapshot, standing_still
from tests.chaos.stage import Stage
from tests.chaos.troupe import Actor, Troupe
from tests.helpers.servers.s3_proxy import FaultPlan

RECOVERY_SECONDS = 60
"""How long a loss is watched that is the only one."""

FENCE_SECONDS = 90
"""How long until a stopped worker must have lost its shift: its lease; or half a minute, if it
was stopped in the middle of a transaction; the rest is for a busy machine."""

SUBMIT_SECONDS = 120
REFERENCE_SECONDS = 900

_MANIFEST_IMAGES = 30
"""About what a manifest asks for."""

HOLDERS = "killed with images"
"""Under this name it is counted how many were killed that held images, as far as was seen."""

_BUSY_SHARE = 0.8
"""How often only a worker that holds images is killed, and nobody if there is none."""

_FREEZERS = 3
_SUBMITTERS = 4

_AWAY = (psycopg.Error, RedisError, ServiceError, psutil.Error, OSError, RuntimeError)
"""What a server raises that is broken just then."""

_RENDERER = {
    "IMAGEMILL_ROUTE": RENDERER_ROUTE,
    "IMAGEMILL_DEVICE": "cpu",
    "IMAGEMILL_SLOTS": "4",
    # A real step takes its time where many processes share a core.
    "IMAGEMILL_HANG_SECONDS": "20",
}


class Campaign:
    """One campaign on a stage. `pace` says what was broken so far."""

    def __init__(self, plan: Plan, stage: Stage, folder: Path) -> None:
        self.plan = plan
        self.stage = stage
        self.history = History(folder / "history.jsonl")
        self._dice = random.Random(plan.seed)
        self.pace = Pace(plan.wanted(), self._dice)
        self.recovery = Recovery(stage)
        self.broken: list[str] = []
        """Promises that were seen broken on the way."""
        self.settle_seconds: float | None = None
        """How long it took from the last fault until everything was over, once it was."""
        self._folder = folder
        self._manifests, self._pictures = (
            Manifests(folder / "manifests", random.Random(seed), poison=plan.poison)
            for seed in (plan.seed + 1, plan.seed + 4)
        )
        self._submitted: dict[str, Manifest] = {}
        self._outages = Outages(
            stage,
            pace=self.pace,
            dice=random.Random(plan.seed + 5),
            recovery=self.recovery,
            note=self._note,
        )
        self._frozen: set[int] = set()
        self._troupe = Troupe(
            folder,
            environment=stage.environment,
            history=self.history,
            seed=plan.seed + 2,
            chance=plan.crash_chance,
        )

    def run(self, report: Callable[[str], None]) -> None:
        """Break things until the plan is fulfilled, then let everything settle.

        `report` hears every second how much of the plan is fulfilled.
        """
        plan = self.plan
        if plan.real_engine:
            self._start_renderers()
        self.stage.proxy.plan = plan.s3_plan()
        for _ in range(plan.workers):
            self._troupe.start("worker")
        for _ in range(plan.dispatchers):
            self._troupe.start("dispatcher")
        loops: list[Callable[[], None]] = [self._submit, self._kill, *self._outages.loops]
        loops += [*([partial(self._freeze, "worker")] * _FREEZERS)]
        if plan.real_engine:
            loops += [self._submit_pictures, self._kill_renderer]
            loops += [partial(self._freeze, "renderer")]
        threads = [threading.Thread(target=self._looped, args=[loop]) for loop in loops]
        seen = threading.Event()
        observer = threading.Thread(target=self.recovery.look_until, args=[seen])
        for thread in [*threads, observer]:
            thread.start()
        ends = time.monotonic() + plan.minutes * 60
        while not self.pace.fulfilled and time.monotonic() < ends:
            self.pace.stopped.wait(1)
            self._count()
            report(", ".join(f"{name} {share:.0%}" for name, share in self.pace.shares().items()))
        self.pace.stopped.set()
        for thread in threads:
            thread.join()
        self.stage.revive()
        self.stage.proxy.plan = FaultPlan()
        self._troupe.chance = 0
        for number in range(plan.recoveries):
            self._recover(worker=number % 2 == 0)
        self._settle()
        seen.set()
        observer.join()

    def _start_renderers(self) -> None:
        """Nothing is broken before torch is loaded, which takes a busy machine a minute."""
        for _ in range(self.plan.renderers):
            self._troupe.start("renderer", environment=_RENDERER)
        give_up = time.monotonic() + REFERENCE_SECONDS
        while not self._troupe.alive("renderer") and time.monotonic() < give_up:
            time.sleep(0.1)

    def close(self) -> None:
        self._troupe.end()

    # What is broken ------------------------------------------------------------------------

    def _looped(self, loop: Callable[[], None]) -> None:
        while not self.pace.stopped.is_set():
            # Between a restart and the next connection, anything may be away; a server that a
            # busy machine could not start in time is started again.
            with suppress(*_AWAY):
                loop()

    def _submit(self) -> None:
        if self.pace.stopped.wait(0.3):
            return
        if self._waiting("default") < self.plan.backlog:
            self._start_producer(self._manifests.write(), "default")

    def _submit_pictures(self) -> None:
        """Work for the real engine, while its workers are to be broken: it takes real time."""
        if self.pace.stopped.wait(0.5):
            return
        backlog = self.plan.renderer_backlog
        ahead = self.pace.is_ahead("kill renderer") and self.pace.is_ahead("freeze renderer")
        if not ahead and self._waiting(RENDERER_ROUTE) < backlog:
            self._start_producer(self._pictures.write_pictures(backlog), RENDERER_ROUTE)

    def _waiting(self, route: str) -> int:
        """Images of a route that wait, are rendered, or are about to be submitted."""
        [(waiting,)] = self.stage.query(
            "SELECT count(*) FROM images i JOIN jobs j ON j.id = i.job_id"
            " WHERE i.state IN ('ready', 'leased') AND j.route = %s",
            route,
        )
        producers = [a for a in self._troupe.expected("producer") if a.order["route"] == route]
        return int(waiting) + _MANIFEST_IMAGES * len(producers)

    def _start_producer(self, manifest: Manifest, route: str) -> None:
        self._submitted[manifest.name] = manifest
        order = {"name": manifest.name, "manifest": str(manifest.path), "route": route}
        # Before anybody can submit it: what was asked for does not depend on what came of it.
        self.history.add("manifest", **order, rows=manifest.rows)
        self._troupe.start("producer", **order)

    def _kill(self) -> None:
        if self.pace.over("kills", 0.1, 0.6):
            return
        roles: list[Role] = ["worker"] * 7 + ["producer"] * 2 + ["dispatcher"]  # type: ignore[list-item]
        self._kill_one(self._troupe.alive(self._dice.choice(roles)) or self._troupe.alive("worker"))

    def _kill_renderer(self) -> None:
        """Mostly one that is rendering, now and then one that is just loading its model."""
        if self.pace.over("kill renderer", 0.5, 3):
            return
        alive = self._troupe.alive("renderer")
        busy = self.recovery.holdings()
        self._kill_one([a for a in alive if a.pid in busy or self._dice.random() < 0.1])

    def _kill_one(self, alive: list[Actor]) -> None:
        chosen = [actor for actor in alive if actor.pid not in self._frozen]
        if not chosen:
            return
        holdings = {}
        with suppress(psycopg.Error):  # workers are killed while the database is away as well
            holdings = self.recovery.holdings()
        busy = [actor for actor in chosen if actor.pid in holdings]
        if chosen[0].role == "worker" and self._dice.random() < _BUSY_SHARE:
            # On a busy machine most workers are just starting, where a kill proves little.
            chosen = busy
        if not chosen:
            return
        actor = self._dice.choice(chosen)
        held = holdings.get(actor.pid)
        if self._troupe.kill(actor):
            if held is not None:
                self.recovery.died(held)
                self.pace.counts[HOLDERS] += 1
            self._note(f"kill {actor.role}", victim=actor.pid)

    def _freeze(self, role: Role) -> None:
        """Stop a worker in the middle of its work until another has it, then let it go on."""
        worker = role == "worker"
        name = "freezes" if worker else "freeze renderer"
        if self.pace.over(name, 0.05 if worker else 1, 0.2 if worker else 3):
            return
        busy = self.recovery.holdings()
        alive = [a for a in self._troupe.alive(role) if a.pid not in self._frozen]
        workers = [actor for actor in alive if actor.pid in busy]
        if not workers:
            return
        actor = self._dice.choice(workers)
        self._frozen.add(actor.pid)
        try:
            os.kill(actor.pid, signal.SIGSTOP)
            try:
                self._wait_for_fence(actor, name)
            finally:
                os.kill(actor.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it ended by itself just before
        finally:
            self._frozen.discard(actor.pid)

    def _wait_for_fence(self, actor: Actor, name: str) -> None:
        held = self.recovery.holdings().get(actor.pid)
        if held is None:
            return  # it was idle: a freeze that proves nothing
        self.recovery.died(held)
        shift = held.shift_id
        deadline = time.monotonic() + FENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.1)
            with suppress(psycopg.Error):
                ended = self.stage.query(
                    "SELECT end_reason FROM shifts WHERE id = %s AND ended_at IS NOT NULL", shift
                )
                if ended == [("lost",)]:
                    self._note(name, shift=shift, victim=actor.pid)
                if ended:
                    return
        self.broken.append(
            f"I4: shift {shift} was still live {FENCE_SECONDS} s after its worker was stopped"
        )

    def _note(self, name: str, **values: Any) -> None:
        self.pace.counts[name] += 1
        self.history.add(name, **values)

    def _count(self) -> None:
        """Take over what is counted elsewhere: by processes before they crash, by the proxy."""
        crashes = Counter(
            event["role"] for event in read_history(self.history.path) if event["event"] == "crash"
        )
        for role, count in crashes.items():
            self.pace.counts[f"kill {role} at a crash point"] = count
        self.pace.counts["S3 faults"] = sum(self.stage.proxy.injected.values())

    # How it ends ---------------------------------------------------------------------------

    def _recover(self, *, worker: bool) -> None:
        """Lose a worker, or else the broker's data, with work at hand; wait until it is found."""
        self._start_producer(self._manifests.write(), "default")
        deadline = time.monotonic() + RECOVERY_SECONDS
        lost = False
        while not lost and time.monotonic() < deadline:
            time.sleep(0.2)
            if worker:
                lost = self._lose_worker()
            elif self._waiting("default") > _MANIFEST_IMAGES:
                lost = True
                self.recovery.broker_lost(at=time.time(), quiet=True)
                self.stage.flush_broker()
                self._note("broker losses")
        while self.recovery.waiting and time.monotonic() < deadline:
            time.sleep(0.2)

    def _lose_worker(self) -> bool:
        """Kill a worker that holds images; whether there was one."""
        holdings = self.recovery.holdings()
        for actor in self._troupe.alive("worker"):
            if actor.pid in holdings and self._troupe.kill(actor):
                self.recovery.died(holdings[actor.pid], quiet=True)
                self._note("kill worker", victim=actor.pid)
                return True
        return False

    def _settle(self) -> None:
        """A last fault of everything at once; then none any more, and all must become terminal."""
        held = self.recovery.holdings()
        for actor in self._troupe.alive():
            if self._troupe.kill(actor) and actor.pid in held:
                self.recovery.died(held[actor.pid], quiet=True)
        self.recovery.broker_lost(at=time.time(), quiet=True)
        self.stage.flush_broker()
        self._count()
        self.history.add("faults over")
        over = time.monotonic()
        settling = Settling()
        broken = None
        while not broken:
            time.sleep(0.3)
            if self._all_terminal():
                self.recovery.look()
                self.history.add("settled")
                self.settle_seconds = time.monotonic() - over
                return
            broken = settling.look(snapshot(self.stage.query))
        lines = standing_still(self.stage.query, self._troupe.alive())
        self.broken.append("\n  ".join([f"I7: {broken}", *lines]))
        self.history.add("stands still", what=broken, lines=lines)

    def _all_terminal(self) -> bool:
        [(jobs, finished)] = self.stage.query(
            "SELECT count(*), count(*) FILTER (WHERE state = 'finished') FROM jobs"
        )
        return bool(jobs == finished == len(self._submitted))

    def submit_again(self) -> None:
        """Every manifest once more, which must change nothing (I6)."""
        orders = [
            {key: event[key] for key in ("name", "manifest", "route")}
            for event in read_history(self.history.path)
            if event["event"] == "manifest"
        ]
        for start in range(0, len(orders), _SUBMITTERS):
            several = orders[start : start + _SUBMITTERS]
            actors = [self._troupe.start("producer", **order) for order in several]
            for actor in actors:
                if not actor.ended.wait(SUBMIT_SECONDS) or actor.status != 0:
                    self.broken.append(f"I6: {actor.order['name']} could not be submitted again")

    def render_again(self) -> Path | None:
        """What the real engine's pictures must be: the same rows rendered where nobody disturbs.
        The file that says so (see `tests.chaos.roles.run_reference`)."""
        manifests = [str(m.path) for name, m in self._submitted.items() if "pictures" in name]
        if not manifests:
            return None
        home = self._folder / "reference"
        (home / "objects").mkdir(parents=True, exist_ok=True)
        output = self._folder / "reference.json"
        environment = _RENDERER | {
            "IMAGEMILL_ROUTE": "reference",
            "IMAGEMILL_DATABASE_URL": f"sqlite:///{home / 'imagemill.sqlite3'}",
            "IMAGEMILL_STORAGE_URL": str(home / "objects"),
            "IMAGEMILL_LEASE_SECONDS": "600",
            "IMAGEMILL_SHIFT_SECONDS": "600",
        }
        actor = self._troupe.start(
            "reference", manifests=manifests, output=str(output), environment=environment
        )
        if not actor.ended.wait(REFERENCE_SECONDS) or actor.status != 0:
            self.broken.append("I2: the real engine's rows could not be rendered undisturbed")
            return None
        return output

    @property
    def ends(self) -> Counter[str]:
        return self._troupe.ends
