"""Simulated workers: the shifts of production, with a device that only takes its time.

Each worker has a thread, a row in `workers`, and one shift after another: the real `Shift`, with
its lease, its recorder and its threads. Each shift is begun by a token from the broker. Not real
are the engine (it waits as long as a device would compute), the encoding, and the store: they cost
nothing here, because in production they are other machines' work. Workers of one process share a
pool of connections, as behind a PgBouncer.
"""

import hashlib
import logging
import queue
import random
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from sqlalchemy import event

from imagemill.db.broker.wake_ups import Tokens, make_app, queue_name
from imagemill.db.database import Database
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.claims import Claimed, GroupChoice
from imagemill.db.queries.work.due_images import due_images
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.files.encoder import EncodedImage
from imagemill.worker.shifts import recorder
from imagemill.worker.shifts.shift import Shift
from imagemill.worker.shifts.worker_context import WorkerContext
from tests.helpers.fake_engine import FakeEnvironment

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_SWITCH_SECONDS = 0.1
_PIXELS = np.zeros((8, 8, 3), np.uint8)
_STEPS = 20
"""The steps of an image of `large_jobs`."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """How fast the simulated devices are: B, and images a second.

    With `mixed`, an image takes between half and one and a half times its steps, so that images
    end one by one; else a whole batch ends at once.
    """

    slots: int
    images_per_second: float
    mixed: bool

    @property
    def step_seconds(self) -> float:
        """The time of one step of B images."""
        return self.slots / self.images_per_second / _STEPS


@dataclass(kw_only=True)
class Worked:
    """What the workers of one process did, and what it cost the process."""

    images: int = 0
    shifts: int = 0
    errors: int = 0
    statements: int = 0
    cpu_seconds: float = 0.0


class DeviceEngine:
    """An engine's interface. A `step` waits until the next image would be finished."""

    def __init__(self, device: Device, environment: FakeEnvironment) -> None:
        self.environment = environment
        self.slots = device.slots
        self.refined = False
        self.steps = 0
        self._device = device
        self._left: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def room(self) -> int:
        return self.slots - len(self._left)

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        for ticket, spec in images:
            steps = spec.steps
            if self._device.mixed:
                steps = random.randint(spec.steps // 2, spec.steps + spec.steps // 2)
            self._left[ticket] = steps

    def step(self) -> list[Rendered | Failed]:
        if not self._left:
            return []
        count = min(self._left.values())
        time.sleep(count * self._device.step_seconds)
        self.steps += count
        ended = [ticket for ticket, left in self._left.items() if left == count]
        self._left = {t: left - count for t, left in self._left.items() if left > count}
        return [
            Rendered(ticket=t, pixels=_PIXELS, outcome=Outcome.OK, cut=None, seconds=0.1)
            for t in ended
        ]

    def cancel(self, tickets: Collection[int]) -> list[int]:
        dropped = [ticket for ticket in self._left if ticket in tickets]
        self._left = {t: left for t, left in self._left.items() if t not in dropped}
        return dropped

    def abandon(self) -> list[int]:
        return self.cancel(list(self._left))


class DeviceShelf:
    """Gives one worker its engine; no model has to be loaded."""

    loaded = ()

    def __init__(self, device: Device, environment: FakeEnvironment) -> None:
        self._device = device
        self._environment = environment

    def engine(self, choice: GroupChoice) -> DeviceEngine:
        del choice
        return DeviceEngine(self._device, self._environment)

    def shrink(self, choice: GroupChoice) -> bool:
        del choice
        return False


class NoStore:
    """A store that takes everything at once and keeps nothing."""

    uri = "none"

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        del key, body, media_type
        return True

    def object_uri(self, key: str) -> str:
        return f"s3://pictures/{key}"


class Drain:
    """Tells all shifts of this process to end."""

    since: float | None = None


def encoded(image: Claimed, rendered: Rendered, environment: Any) -> EncodedImage:
    """A file of the size of a small picture, of which only the hash is made."""
    del rendered, environment
    digest = hashlib.sha256(image.request_key.encode()).hexdigest()
    return EncodedImage(
        body=b"",
        sha256=digest,
        pixels_sha256=digest,
        media_type="image/png",
        width=image.spec.width,
        height=image.spec.height,
    )


class Fleet:
    """The simulated workers of one process."""

    def __init__(self, settings: Settings, device: Device, *, workers: int, name: str) -> None:
        self._settings = settings
        self._device = device
        self._name = name
        self._workers = workers
        self._database = Database.from_settings(settings)
        self._tokens: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._publishing = threading.Lock()
        self._publisher = Tokens(settings)
        self._drain = Drain()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.worked = Worked()
        event.listen(self._database.engine, "before_cursor_execute", self._count)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then drain."""
        threads = [threading.Thread(target=self._work, args=[n]) for n in range(self._workers)]
        threads.append(threading.Thread(target=self._take_tokens))
        with mock.patch.object(recorder, "_encoded", encoded):
            for thread in threads:
                thread.start()
            stop.wait()
            self._drain.since = time.monotonic()
            self._over.set()
            for thread in threads:
                thread.join()
        self._publisher.close()
        self._database.close()

    def snapshot(self) -> Worked:
        """What was done until now."""
        with self._lock:
            return Worked(**{**vars(self.worked), "cpu_seconds": time.process_time()})

    def _count(self, *_: Any) -> None:
        self.worked.statements += 1  # a lost one of thousands does not matter

    def _take_tokens(self) -> None:
        """Take a token whenever a worker is free, as Celery does with prefetch off."""
        app = make_app(self._settings)
        with app.connection_for_read() as connection:
            tokens = connection.SimpleQueue(queue_name(self._settings.route))
            while not self._over.is_set():
                if not self._idle.acquire(timeout=_LOOK_SECONDS):
                    continue
                while not self._over.is_set():
                    with suppress(queue.Empty):
                        message = tokens.get(timeout=_LOOK_SECONDS)
                        message.ack()
                        self._tokens.put("token")
                        break
            tokens.close()
        for _ in range(self._workers):
            self._tokens.put("end")

    def _work(self, number: int) -> None:
        name = f"{self._name}-{number}"
        worker_id = self._database.run(
            lambda session: shifts.register_worker(
                session,
                name=f"{name}@simulated:1",
                host=name,
                pid=1,
                device="simulated",
                route=self._settings.route,
            )
        )
        shelf = DeviceShelf(self._device, FakeEnvironment(fields={"device": "simulated"}))
        context = WorkerContext(
            database=self._database,
            storage=NoStore(),
            settings=self._settings,
            worker_id=worker_id,
            drain=self._drain,
        )
        while not self._over.is_set():
            self._idle.release()
            if self._tokens.get() == "end":
                return
            try:
                report = Shift(context, shelf=shelf).work()
                self._wake_next()
            except Exception:  # whatever it is, the worker goes on, and the figures say so
                log.exception("a shift failed")
                self._add(errors=1)
            else:
                self._add(images=report.done, shifts=1)

    def _add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self.worked, name, getattr(self.worked, name) + count)

    def _wake_next(self) -> None:
        """Publish a token if work is left, as a worker's child does."""
        if self._database.run(due_images) and not self._over.is_set():
            with self._publishing:
                self._publisher.publish(self._settings.route)


def work(pipe: Any, settings: Settings, device: Device, workers: int, name: str) -> None:
    """The main function of a process of workers. `pipe` asks for snapshots, then for the end."""
    # Fifty workers share an interpreter here. A thread that waits for it looks again so often, and
    # by default all of them do so every 5 ms, which is work that no worker of production has.
    sys.setswitchinterval(_SWITCH_SECONDS)
    fleet = Fleet(settings, device, workers=workers, name=name)
    stop = threading.Event()
    thread = threading.Thread(target=fleet.run, args=[stop])
    thread.start()
    while pipe.recv() == "snapshot":
        pipe.send(fleet.snapshot())
    stop.set()
    thread.join()
    pipe.send(fleet.snapshot())
