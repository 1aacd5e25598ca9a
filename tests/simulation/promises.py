"""What must hold after every step of a history, read from the tables without our own queries."""

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from imagemill.db.queries.work.claims import Claimed, RetryPolicy
from tests.simulation.clock import VirtualClock

POLICY = RetryPolicy(max_failures=3, max_losses=4, retry_seconds=5)
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
    limits: dict[int, int | None]
    objects: dict[int, tuple[str, str]]
    attempts: list[tuple[int, int, int, str]]
    shifts: dict[int, tuple[str, str | None]]
    counts: Counter[tuple[int, str]]


@dataclass(kw_only=True)
class SimulatedWorker:
    """What a worker believes it holds. It may have died, frozen, or lost it all long ago."""

    shift_id: int
    held: dict[int, Claimed] = field(default_factory=dict)


class Promises:
    """The tables as they were, and what the steps were told: `check` follows each step."""

    def __init__(self, clock: VirtualClock, connection: sqlite3.Connection) -> None:
        self._clock = clock
        self._connection = connection
        self.requested: Counter[int] = Counter()
        self.begun: set[tuple[int, int | None]] = set()
        """Which image began in which shift, as the shift was told, and is still leased."""
        self.before = self.snapshot()

    def check(self, actor: SimulatedWorker | str) -> None:
        """Compare the tables before and after a step by `actor`."""
        before, after = self.before, self.snapshot()
        self._check_counts(after)
        self._check_objects(before, after, actor)
        self._check_seats(after)
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

    def _check_seats(self, after: Snapshot) -> None:
        holders: dict[int, set[int]] = {}
        for image in after.images.values():
            if image.shift_id and after.shifts[image.shift_id][0] > self._clock.text():
                holders.setdefault(image.job_id, set()).add(image.shift_id)
        for job_id, found in holders.items():
            if len(found) > (after.limits[job_id] or len(found)):
                raise Broken(f"job {job_id} may have {after.limits[job_id]} workers, has {found}")

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
            over = self.before.shifts[old.shift_id or 0][0] <= self._clock.text()
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
        rows = self._connection.execute
        columns = ", ".join(ImageRow._fields)
        counts: Counter[tuple[int, str]] = Counter()
        for job_id, state, delta in rows("SELECT job_id, state, delta FROM tallies"):
            counts[job_id, state] += delta
        return Snapshot(
            images={row[0]: ImageRow(*row) for row in rows(f"SELECT {columns} FROM images")},
            jobs=dict(rows("SELECT id, state FROM jobs").fetchall()),
            limits=dict(rows("SELECT id, max_workers FROM jobs").fetchall()),
            objects={
                row[0]: row[1:] for row in rows("SELECT id, request_key, sha256 FROM objects")
            },
            attempts=rows("SELECT id, image_id, generation, event FROM attempts").fetchall(),
            shifts={
                row[0]: row[1:] for row in rows("SELECT id, lease_until, ended_at FROM shifts")
            },
            counts=counts,
        )
