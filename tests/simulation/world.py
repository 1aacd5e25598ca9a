"""The simulated world: a database, producers, workers and operators, and what must hold."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from imagemill.db.database import Database
from imagemill.db.queries import jobs
from imagemill.db.queries.claims import Claimed, RetryPolicy
from imagemill.db.schema import migrate
from imagemill.db.states import ImageState, JobState
from tests.helpers.mill import CRASH, CRASH_ALONE, REFUSED, Mill, spec
from tests.simulation.clock import VirtualClock

LEASE_SECONDS = 60
POLICY = RetryPolicy(max_failures=3, max_losses=4, retry_seconds=5)
POISON = "poison"
"""Whatever renders this prompt fails, also when faults have stopped."""

MANIFESTS = (
    ("a", ["red", "green", POISON]),
    ("b", ["red", "blue", "red", "white"]),
    ("c", ["green", POISON, "black", "blue"]),
    ("d", ["red", "green", "blue", "white", "black"]),
)
_TERMINAL = {"done", "dead", "cancelled"}


class Broken(AssertionError):
    """A promise is broken; the message names it."""


class ImageRow(NamedTuple):
    """What a row of `images` says."""

    id: int
    job_id: int
    request_key: str
    state: str
    generation: int
    shift_id: int | None
    begun_at: str | None
    suspect: int
    failures: int
    object_id: int | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that the promises speak of, read without our own queries."""

    images: dict[int, ImageRow]
    jobs: dict[int, str]
    objects: dict[int, tuple[str, str]]
    attempts: list[tuple[int, int, int, str]]
    shifts: dict[int, tuple[str, str | None]]
    counts: Counter[tuple[int, str]]


@dataclass(kw_only=True)
class SimulatedWorker:
    """What a worker believes it holds. It may have died, frozen, or lost it all long ago."""

    shift_id: int
    held: dict[int, Claimed] = field(default_factory=dict)


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
    """One history. Every public method is one step; `check` follows each."""

    _stage: "Stage | None" = None

    def __init__(self) -> None:
        stage = World._stage = World._stage or Stage()
        self.clock = stage.clock
        self.database = stage.database
        self._raw = stage.reset()
        self.mill = Mill(self.database, policy=POLICY)
        self.workers: list[SimulatedWorker] = []
        self.jobs: dict[str, int] = {}
        self.requested: Counter[int] = Counter()
        self.begun: set[tuple[int, int | None]] = set()
        """Which image began in which shift, as the shift was told, and is still leased."""
        self.again = False
        self.before = self.snapshot()

    # Producers -----------------------------------------------------------------------------

    def submit(self, which: int, chunks: int) -> None:
        """Submit a manifest (again); the producer dies after so many chunks of two rows."""
        name, prompts = MANIFESTS[which % len(MANIFESTS)]
        job_id = self._twice(lambda: self.mill.create(name))
        self.jobs[name] = job_id
        job = self.mill.job(job_id)
        if job.state != JobState.LOADING:
            return
        rest = prompts[job.rows_loaded :]
        for start in range(0, min(len(rest), 2 * chunks), 2):
            part = rest[start : start + 2]
            self.mill.insert(job_id, [spec(prompt) for prompt in part])
            self.requested[job_id] += len(part)
            self.check("producer")
        if 2 * chunks > len(rest):
            self._twice(lambda: self._run(jobs.open_job, job_id))
        self.check("producer")

    def reject(self, which: int) -> None:
        job_id = self._job(which)
        if self._twice(lambda: self._run(jobs.reject, job_id, message="a bad row")):
            self.requested[job_id] = 0
        self.check("reject")

    # Workers -------------------------------------------------------------------------------

    def start(self) -> None:
        self.workers.append(SimulatedWorker(shift_id=self.mill.shift(lease_seconds=LEASE_SECONDS)))
        self.check("start")

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
            before = self.before.images[image.id]
            if before.state != "ready" or self.before.jobs[image.job_id] != "open":
                raise Broken(f"I4: {before} was claimed in a job {self.before.jobs[image.job_id]}")
            worker.held[image.id] = image
        self.check(worker)

    def renew(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        live = self._live(worker)
        orders = self._twice(lambda: self.mill.renew(worker.shift_id, lease_seconds=LEASE_SECONDS))
        if (orders is not None) != live:
            raise Broken(f"I4: shift {worker.shift_id} was renewed: {orders}, live: {live}")
        self.check(worker)

    def begin(self, who: int, count: int) -> None:
        worker = self._worker(who)
        ids = list(worker.held)[:count]
        for image_id in self._twice(lambda: self.mill.begin(worker.shift_id, ids)):
            self.begun.add((image_id, worker.shift_id))
        self.check(worker)

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
        self.check(worker)
        self._complete(worker, images)

    def _complete(self, worker: SimulatedWorker, images: list[Claimed]) -> None:
        images = [image for image in images if image.spec.prompt != POISON]
        live, content = self._live(worker), f"environment {worker.shift_id % 2}"
        self._twice(lambda: self.mill.complete(worker.shift_id, images, content=content))
        if not live and self.snapshot().objects != self.before.objects:
            raise Broken(f"I4: shift {worker.shift_id} recorded an object without a lease")
        self.check(worker)

    def finish_known(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        keys = [image.request_key for image in worker.held.values()]
        self._twice(lambda: self.mill.finish_known(worker.shift_id, keys))
        self.check(worker)

    def fail(self, who: int, count: int) -> None:
        """Its newest image; one time in four in a way that a retry can't mend."""
        worker = self._worker(who)
        if worker.held:
            _, image = worker.held.popitem()
            failure = CRASH_ALONE if image.solo else CRASH
            failure = failure if count < 4 else replace(REFUSED, solo=image.solo)
            self._twice(lambda: self.mill.fail(worker.shift_id, image.id, failure))
        self.check(worker)

    def give_back(self, who: int, _count: int = 0) -> None:
        worker = self._worker(who)
        self._twice(lambda: self.mill.give_back(worker.shift_id))
        worker.held.clear()
        self.check(worker)

    def end(self, who: int, _count: int = 0) -> None:
        worker = self.workers.pop(who % len(self.workers))
        self._twice(lambda: self.mill.end(worker.shift_id))
        self.check(worker)

    # Operators and maintenance ---------------------------------------------------------------

    def steer(self, which: int, action: Callable[..., Any]) -> None:
        """`cancel`, `pause` or `resume` of `imagemill.db.queries.jobs`."""
        job_id = self._job(which)
        moved = self._twice(lambda: self._run(action, job_id))
        self.check("operator")
        ready = [
            image
            for image in self.before.images.values()
            if image.job_id == job_id and image.state == "ready"
        ]
        if moved and self.before.jobs[job_id] == "cancelled" and ready:
            raise Broken(f"a cancelled job has images to do: {ready}")

    def retry(self, which: int) -> None:
        job_id = self._job(which)
        self._twice(lambda: self.mill.retry(job_id))
        self.check("retry")

    def requeue(self, which: int) -> None:
        """The file of some object was found missing or damaged."""
        objects = sorted(self.before.objects)
        if objects:
            gone = [objects[which % len(objects)]]
            self._twice(lambda: self._run(jobs.requeue, gone))
            self.check("requeue")

    def rescue(self) -> None:
        self._twice(self.mill.rescue)
        self.check("rescue")

    def maintain(self) -> None:
        self._twice(self.mill.cancel_stragglers)
        self._twice(self.mill.finish_jobs)
        self._twice(self.mill.fold)
        self.check("maintenance")

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # The end: faults stop ----------------------------------------------------------------------

    def heal(self) -> None:
        """I7: without further faults everything becomes terminal, in bounded time."""
        self.again = False
        self.workers.clear()
        for name, _ in MANIFESTS:
            if name in self.jobs:
                self.steer(list(self.jobs).index(name), jobs.resume)
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
            raise Broken(f"I7: still pending: {self.snapshot().images}")
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
        objects, self.again = self.snapshot().objects, True
        for which, (name, prompts) in enumerate(MANIFESTS):
            if self.mill.database.run(self._is_live(name)):
                self.submit(which, chunks=len(prompts) + 1)
        if self.snapshot().objects != objects:
            raise Broken("I6: submitting again changed the objects")

    def _is_live(self, name: str) -> Callable[..., bool]:
        job_id = self.jobs.get(name)

        def live(session: Any) -> bool:
            return job_id is not None and jobs.find_job(session, str(job_id)).state == "finished"

        return live

    # Promises ----------------------------------------------------------------------------------

    def check(self, actor: SimulatedWorker | str) -> None:
        """Compare the tables before and after a step by `actor`."""
        before, after = self.before, self.snapshot()
        self._check_counts(after)
        self._check_objects(before, after, actor)
        if after.attempts[: len(before.attempts)] != before.attempts and actor != "reject":
            raise Broken("the history is append-only")
        known = {key for key, _ in before.objects.values()}
        for image in after.images.values():
            self._check_shape(image, after)
            new = image.id not in before.images and image.state == "ready"
            if new and image.request_key in known:
                raise Broken(f"I6: {image} asks again for an object that exists")
        for old in before.images.values():
            new = after.images.get(old.id)
            if new is None:
                if actor != "reject":
                    raise Broken(f"I1: image {old.id} is gone")
            elif new != old:
                self._check_change(old, new, actor)
        self.before = after

    def _check_counts(self, after: Snapshot) -> None:
        truth = Counter((image.job_id, image.state) for image in after.images.values())
        if truth != +after.counts or -after.counts:
            raise Broken(f"I1: tallies say {after.counts}, images are {truth}")
        for job_id in after.jobs:
            requested = sum(1 for image in after.images.values() if image.job_id == job_id)
            if requested != self.requested[job_id]:
                raise Broken(
                    f"I1: job {job_id}: {requested} images, {self.requested[job_id]} asked"
                )

    def _check_objects(
        self, before: Snapshot, after: Snapshot, actor: SimulatedWorker | str
    ) -> None:
        if not before.objects.items() <= after.objects.items() and actor != "requeue":
            raise Broken("I2: an object changed or went")
        keys = [key for key, _ in after.objects.values()]
        if len(keys) != len(set(keys)):
            raise Broken("I2: a request has two objects")

    def _check_shape(self, image: ImageRow, after: Snapshot) -> None:
        if image.state == "done":
            key = after.objects[image.object_id or 0][0]
            if key != image.request_key:
                raise Broken(f"I2: {image} has the object of {key}")
        if image.state == "dead" and not (image.error_code and image.error_message):
            raise Broken(f"I8: {image} does not say why")
        if image.state == "leased" and after.shifts[image.shift_id or 0][1] is not None:
            raise Broken(f"I4: {image} is leased by a shift that ended")
        if after.jobs[image.job_id] == "finished" and image.state not in _TERMINAL:
            raise Broken(f"I7: {image} is to do in a finished job")
        if image.failures > max(POLICY.max_failures, POLICY.max_losses):
            raise Broken(f"{image} failed alone too often")

    def _check_change(self, old: ImageRow, new: ImageRow, actor: SimulatedWorker | str) -> None:
        if old.state in _TERMINAL:
            action = {"dead": "retry", "done": "requeue"}.get(old.state)
            generation = old.generation + (self.before.jobs[old.job_id] != "loading")
            if actor != action or new.state != "ready" or new.generation != generation:
                raise Broken(f"I5: {actor} moved {old} to {new}")
        elif new.generation != old.generation:
            raise Broken(f"I5: {actor} gave {old} another generation")
        if old.state == "leased":
            over = self.before.shifts[old.shift_id or 0][0] <= self.clock.text()
            holder = isinstance(actor, SimulatedWorker) and actor.shift_id == old.shift_id
            if not ((holder and not over) or (actor == "rescue" and over)):
                raise Broken(f"I4: {actor} changed {old} to {new}")
            if new.state == "ready" and self.before.jobs[new.job_id] == "cancelled":
                raise Broken(f"{actor} made {old} of a cancelled job ready")
        elif new.state in ("leased", "done") and self.before.jobs[new.job_id] == "loading":
            raise Broken(f"{actor} moved {old} of a loading job to {new}")
        self._check_charge(old, new, actor)
        if new.state != "leased":
            self.begun.discard((old.id, old.shift_id))

    def _check_charge(self, old: ImageRow, new: ImageRow, actor: SimulatedWorker | str) -> None:
        """Only images that had begun are charged, failures alone are counted, none forgotten."""
        charged = new.failures - old.failures
        if actor in ("retry", "requeue"):
            if new.failures:
                raise Broken(f"a new generation starts with failures: {new}")
        elif actor == "rescue":
            begun = (old.id, old.shift_id) in self.begun
            if charged != (1 if begun and old.suspect else 0):
                raise Broken(f"a rescue charged {charged} to {old}, begun: {begun}")
            if new.suspect != (old.suspect or begun):
                raise Broken(f"a rescue made {old} {new}, begun: {begun}")
        elif charged and not (charged == 1 and old.suspect and old.state == "leased"):
            raise Broken(f"{actor} charged {charged} to {old}")

    def snapshot(self) -> Snapshot:
        """The tables as they are now."""
        rows = self._raw.execute
        columns = ", ".join(ImageRow._fields)
        counts: Counter[tuple[int, str]] = Counter()
        for job_id, state, delta in rows("SELECT job_id, state, delta FROM tallies"):
            counts[job_id, state] += delta
        return Snapshot(
            images={row[0]: ImageRow(*row) for row in rows(f"SELECT {columns} FROM images")},
            jobs=dict(rows("SELECT id, state FROM jobs").fetchall()),
            objects={
                row[0]: row[1:] for row in rows("SELECT id, request_key, sha256 FROM objects")
            },
            attempts=rows("SELECT id, image_id, generation, event FROM attempts").fetchall(),
            shifts={
                row[0]: row[1:] for row in rows("SELECT id, lease_until, ended_at FROM shifts")
            },
            counts=counts,
        )

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
        lease_until, ended_at = self.snapshot().shifts[worker.shift_id]
        return ended_at is None and lease_until > self.clock.text()
