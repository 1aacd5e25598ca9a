"""The simulated world: a database, producers, workers and operators."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from imagemill.db.database import Database
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.schema import migrate
from imagemill.db.states import ImageState, JobState
from tests.helpers.mill import CRASH, CRASH_ALONE, REFUSED, Mill, spec
from tests.simulation.clock import VirtualClock
from tests.simulation.promises import POLICY, Broken, Promises, SimulatedWorker

LEASE_SECONDS = 60
POISON = "poison"
"""Whatever renders this prompt fails, also when faults have stopped."""

MANIFESTS = (
    ("a", ["red", "green", POISON]),
    ("b", ["red", "blue", "red", "white"]),
    ("c", ["green", POISON, "black", "blue"]),
    ("d", ["red", "green", "blue", "white", "black"]),
)

LIMITED = {"b": 1, "d": 2}
"""The most workers of some of them."""


class Stage:
    """One database in memory for all histories: SQLAlchemy keeps what it compiled for it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.database = Database("sqlite://")
        self.clock.install(self.database)
        migrate(self.database)
        self._connection = self.database.engine.raw_connection().driver_connection
        self._empty = sqlite3.connect(":memory:")
        self._connection.backup(self._empty)

    def reset(self) -> sqlite3.Connection:
        """The database as it was when it was new."""
        self._empty.backup(self._connection)
        return self._connection


class World:
    """One history. Every public method is one step; `Promises.check` follows each."""

    _stage: "Stage | None" = None

    def __init__(self) -> None:
        stage = World._stage = World._stage or Stage()
        self.clock = stage.clock
        self.database = stage.database
        connection = stage.reset()
        self.mill = Mill(self.database, policy=POLICY)
        self.workers: list[SimulatedWorker] = []
        self.jobs: dict[str, int] = {}
        self.again = False
        self.promises = Promises(stage.clock, connection)

    # Producers -----------------------------------------------------------------------------

    def submit(self, which: int, chunks: int) -> None:
        """Submit a manifest (again); the producer dies after so many chunks of two rows."""
        name, prompts = MANIFESTS[which % len(MANIFESTS)]
        most = LIMITED.get(name)
        job_id = self._twice(lambda: self.mill.create(name, max_workers=most))
        self.jobs[name] = job_id
        job = self.mill.job(job_id)
        if job.state != JobState.LOADING:
            return
        rest = prompts[job.rows_loaded :]
        for start in range(0, min(len(rest), 2 * chunks), 2):
            part = rest[start : start + 2]
            self.mill.insert(job_id, [spec(prompt) for prompt in part])
            self.promises.requested[job_id] += len(part)
            self.promises.check("producer")
        if 2 * chunks > len(rest):
            self._twice(lambda: self._run(lifecycle.open_job, job_id))
        self.promises.check("producer")

    def reject(self, which: int) -> None:
        job_id = self._job(which)
        if self._twice(lambda: self._run(lifecycle.reject, job_id, message="a bad row")):
            self.promises.requested[job_id] = 0
        self.promises.check("reject")

    # Workers -------------------------------------------------------------------------------

    def start(self) -> None:
        self.workers.append(SimulatedWorker(shift_id=self.mill.shift(lease_seconds=LEASE_SECONDS)))
        self.promises.check("start")

    def die(self, who: int, _count: int = 0) -> None:
        """It is killed: nothing is heard of it again."""
        self.workers.pop(who % len(self.workers))

    def claim(self, who: int, limit: int) -> None:
        worker = self._worker(who)
        live = self._live(worker)
        claimed = self.mill.claim(worker.shift_id, limit=limit)
        if self.again:  # the answer was lost: what was claimed first is known to nobody
            claimed = self.mill.claim(worker.shift_id, limit=limit)
        if claimed and not live:
            raise Broken(f"I4: shift {worker.shift_id} claimed without a lease")
        if len(claimed) > limit or (any(c.solo for c in claimed) and len(claimed) != 1):
            raise Broken(f"a claim of {limit} gave {claimed}")
        for image in claimed:
            before = self.promises.before.images[image.id]
            if before.state != "ready" or self.promises.before.jobs[image.job_id] != "open":
                raise Broken(
                    f"I4: {before} was claimed in a job {self.promises.before.jobs[image.job_id]}"
                )
            worker.held[image.id] = image
        self.promises.check(worker)

    def renew(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        live = self._live(worker)
        orders = self._twice(lambda: self.mill.renew(worker.shift_id, lease_seconds=LEASE_SECONDS))
        if (orders is not None) != live:
            raise Broken(f"I4: shift {worker.shift_id} was renewed: {orders}, live: {live}")
        self.promises.check(worker)

    def begin(self, who: int, count: int) -> None:
        worker = self._worker(who)
        ids = list(worker.held)[:count]
        for image_id in self._twice(lambda: self.mill.begin(worker.shift_id, ids)):
            self.promises.begun.add((image_id, worker.shift_id))
        self.promises.check(worker)

    def complete(self, who: int, count: int) -> None:
        """Some of its images, from the newest, each shift in an environment of its own."""
        worker = self._worker(who)
        images = [worker.held.pop(key) for key in list(worker.held)[-count:]]
        self._complete(worker, images)

    def meddle(self, who: int, _count: int = 0) -> None:
        """A worker that believes to hold what another does."""
        worker = self._worker(who)
        images = [image for other in self.workers for image in other.held.values()]
        for image in images:
            self.mill.fail(worker.shift_id, image.id, CRASH_ALONE if image.solo else CRASH)
            self.mill.give_back(worker.shift_id, [image.id])
        self.promises.check(worker)
        self._complete(worker, images)

    def _complete(self, worker: SimulatedWorker, images: list[Claimed]) -> None:
        images = [image for image in images if image.spec.prompt != POISON]
        live, content = self._live(worker), f"environment {worker.shift_id % 2}"
        self._twice(lambda: self.mill.complete(worker.shift_id, images, content=content))
        if not live and self.promises.snapshot().objects != self.promises.before.objects:
            raise Broken(f"I4: shift {worker.shift_id} recorded an object without a lease")
        self.promises.check(worker)

    def finish_known(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        keys = [image.request_key for image in worker.held.values()]
        self._twice(lambda: self.mill.finish_known(worker.shift_id, keys))
        self.promises.check(worker)

    def fail(self, who: int, count: int) -> None:
        """Its newest image; one time in four in a way that a retry can't mend."""
        worker = self._worker(who)
        if worker.held:
            _, image = worker.held.popitem()
            failure = CRASH_ALONE if image.solo else CRASH
            failure = failure if count < 4 else replace(REFUSED, solo=image.solo)
            self._twice(lambda: self.mill.fail(worker.shift_id, image.id, failure))
        self.promises.check(worker)

    def give_back(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        self._twice(lambda: self.mill.give_back(worker.shift_id))
        worker.held.clear()
        self.promises.check(worker)

    def end(self, who: int, _count: int = 0) -> None:
        worker = self.workers.pop(who % len(self.workers))
        self._twice(lambda: self.mill.end(worker.shift_id))
        self.promises.check(worker)

    # Operators and maintenance ---------------------------------------------------------------

    def steer(self, which: int, action: Callable[..., Any]) -> None:
        """`cancel`, `pause` or `resume` of `imagemill.db.queries.jobs.lifecycle`."""
        job_id = self._job(which)
        moved = self._twice(lambda: self._run(action, job_id))
        self.promises.check("operator")
        ready = [
            image
            for image in self.promises.before.images.values()
            if image.job_id == job_id and image.state == "ready"
        ]
        if moved and self.promises.before.jobs[job_id] == "cancelled" and ready:
            raise Broken(f"a cancelled job has images to do: {ready}")

    def retry(self, which: int) -> None:
        job_id = self._job(which)
        self._twice(lambda: self.mill.retry(job_id))
        self.promises.check("retry")

    def requeue(self, which: int) -> None:
        """The file of some object was found missing or damaged."""
        objects = sorted(self.promises.before.objects)
        if objects:
            gone = [objects[which % len(objects)]]
            self._twice(lambda: self._run(lifecycle.requeue, gone))
            self.promises.check("requeue")

    def rescue(self) -> None:
        self._twice(self.mill.rescue)
        self.promises.check("rescue")

    def maintain(self) -> None:
        self._twice(self.mill.cancel_stragglers)
        self._twice(self.mill.finish_jobs)
        self._twice(self.mill.fold)
        self.promises.check("maintenance")

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # The end: faults stop ----------------------------------------------------------------------

    def heal(self) -> None:
        """I7: without further faults everything becomes terminal, in bounded time."""
        self.again = False
        self.workers.clear()
        for name, _ in MANIFESTS:
            if name in self.jobs:
                self.steer(list(self.jobs).index(name), lifecycle.resume)
        for which, (name, prompts) in enumerate(MANIFESTS):
            if name in self.jobs:
                self.submit(which, chunks=len(prompts) + 1)
        for _ in range(40):
            self.wait(LEASE_SECONDS + 1)
            self.rescue()
            self._work_honestly()
            self.maintain()
            if not any(self.mill.counts(job_id).pending for job_id in self.jobs.values()):
                break
        else:
            raise Broken(f"I7: still pending: {self.promises.snapshot().images}")
        self._check_outcome()

    def _work_honestly(self) -> None:
        self.start()
        worker = self.workers[-1]
        while True:
            self.claim(-1, 4)
            if not worker.held:
                break
            self.begin(-1, 4)
            if any(image.spec.prompt == POISON for image in worker.held.values()):
                while worker.held:
                    self.fail(-1, 1)
            else:
                self.complete(-1, 4)
        self.end(-1)

    def _check_outcome(self) -> None:
        found = self.mill.audit()
        if found:
            raise Broken("; ".join(map(str, found)))
        for name, job_id in self.jobs.items():
            state = self.mill.job(job_id).state
            if state not in (JobState.FINISHED, JobState.CANCELLED, JobState.REJECTED):
                raise Broken(f"I7: job {name} ended {state}")
            for image in self.mill.images(job_id):
                poisonous = image.prompt == POISON
                if state == JobState.FINISHED and poisonous and image.state != ImageState.DEAD:
                    raise Broken(f"the poisonous image {image.id} of {name} is {image.state}")
        objects, self.again = self.promises.snapshot().objects, True
        for which, (name, prompts) in enumerate(MANIFESTS):
            if self.mill.database.run(self._is_live(name)):
                self.submit(which, chunks=len(prompts) + 1)
        if self.promises.snapshot().objects != objects:
            raise Broken("I6: submitting again changed the objects")

    def _is_live(self, name: str) -> Callable[..., bool]:
        job_id = self.jobs.get(name)

        def live(session: Any) -> bool:
            return (
                job_id is not None and lifecycle.find_job(session, str(job_id)).state == "finished"
            )

        return live

    # Helpers -----------------------------------------------------------------------------------

    def _twice(self, step: Callable[[], Any]) -> Any:
        """Do a step; where the commit's outcome is unknown, do it again. The first answer."""
        answer = step()
        if self.again:
            step()
        return answer

    def _run(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.database.run(lambda session: query(session, *args, **kwargs))

    def _worker(self, who: int) -> SimulatedWorker:
        return self.workers[who % len(self.workers)]

    def _job(self, which: int) -> int:
        return list(self.jobs.values())[which % len(self.jobs)]

    def _live(self, worker: SimulatedWorker) -> bool:
        lease_until, ended_at = self.promises.snapshot().shifts[worker.shift_id]
        return ended_at is None and lease_until > self.clock.text()
