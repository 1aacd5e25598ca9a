"""Behind the denoiser: encode, hash, upload and commit in threads, so that the GPU never waits.

Order is what makes the effect exactly-once: the file is in storage, verified, before the
transaction that makes its images done. A crash in between leaves a file without a row, which the
next attempt finds and adopts, or `sweep` removes.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from db.database import Database
from db.errors import StorageError
from db.queries import objects
from db.queries.claims import Claimed
from db.queries.objects import StoredImage
from db.specs import FILE_SUFFIXES
from db.storage import Storage
from db.storage.keys import object_key
from worker.engine import Rendered
from worker.environment import Environment
from worker.images import encode
from worker.records import ImageRecord, pixels_sha256

log = logging.getLogger(__name__)

COMMIT_IMAGES = 64
COMMIT_SECONDS = 0.2
"""A commit takes what is stored by then: at most so many images, waiting at most so long."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    stored: StoredImage
    environment: Environment


class Recorder:
    """Takes rendered images and makes them done, for one shift; a context manager.

    `give_up` says when waiting for a store that does not answer has no more sense (the lease is
    lost, the drain's deadline is over). `ticks` moves with every file, commit and try. What went
    wrong in the threads is raised by the next call.
    """

    def __init__(
        self,
        *,
        database: Database,
        storage: Storage,
        shift_id: int,
        threads: int = 2,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.ticks = 0
        self.done = 0
        self._database = database
        self._storage = storage
        self._shift_id = shift_id
        self._give_up = give_up
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._committer = threading.Thread(target=self._commit_all, name="commit", daemon=True)
        self._stored: queue.SimpleQueue[_Ready | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._failure: BaseException | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> "Recorder":
        self._committer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what is not stored yet, commit what is, and end the threads."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stored.put(None)
        self._committer.join()

    def add(self, image: Claimed, rendered: Rendered, environment: Environment) -> None:
        """Hand over a rendered image; returns at once."""
        self._raise_failure()
        with self._changed:
            self._pending += 1
        future = self._pool.submit(self._store, image, rendered, environment)
        future.add_done_callback(self._on_stored)

    def wait(self, *, at_most: int = 0) -> None:
        """Wait until at most so many images are not recorded yet.

        The engine must not run away from a store or database that is slower than it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._pending <= at_most or self._failure)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _on_stored(self, future: Future[_Ready]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._stored.put(future.result())
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _commit_all(self) -> None:
        ended = False
        while not ended:
            batch: list[_Ready] = []
            deadline: float | None = None
            while len(batch) < COMMIT_IMAGES:
                timeout = None if deadline is None else deadline - time.monotonic()
                try:
                    item = self._stored.get(timeout=timeout and max(timeout, 0.001))
                except queue.Empty:
                    break
                if item is None:
                    ended = True
                    break
                batch.append(item)
                deadline = deadline or time.monotonic() + COMMIT_SECONDS
            try:
                self._commit(batch)
            except Exception as error:  # handed to the shift, which raises it
                self._fail(error)
                return

    def _commit(self, batch: list[_Ready]) -> None:
        by_environment: dict[str, list[_Ready]] = {}
        for item in batch:
            by_environment.setdefault(item.environment.fingerprint(), []).append(item)
        for fingerprint, items in by_environment.items():
            self.done += self._database.run(partial(self._complete, fingerprint, items))
        self.ticks += 1
        with self._changed:
            self._pending -= len(batch)
            self._changed.notify_all()

    def _complete(self, fingerprint: str, items: list[_Ready], session: Session) -> int:
        environment_id = objects.environment_id(
            session, fingerprint=fingerprint, document=items[0].environment.document()
        )
        return objects.complete(
            session,
            shift_id=self._shift_id,
            environment_id=environment_id,
            stored=[item.stored for item in items],
        )

    def _store(self, image: Claimed, rendered: Rendered, environment: Environment) -> _Ready:
        spec = image.spec
        record = ImageRecord(
            spec=spec,
            environment=environment.document(),
            pixels_sha256=pixels_sha256(rendered.pixels),
            outcome=rendered.outcome,
            prompt_cut=rendered.cut,
        )
        encoded = encode(rendered.pixels, record)
        key = object_key(image.request_key, encoded.sha256, FILE_SUFFIXES[spec.format])
        self._put(key, encoded.body, encoded.media_type)
        stored = StoredImage(
            request_key=image.request_key,
            object_key=key,
            uri=self._storage.object_uri(key),
            sha256=encoded.sha256,
            pixels_sha256=encoded.pixels_sha256,
            size_bytes=len(encoded.body),
            width=encoded.width,
            height=encoded.height,
            format=spec.format,
            outcome=rendered.outcome,
            cut=rendered.cut,
            seconds=rendered.seconds,
        )
        self.ticks += 1
        return _Ready(stored=stored, environment=environment)

    def _put(self, key: str, body: bytes, media_type: str) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._storage.put(key, body, media_type=media_type)
            except StorageError as error:
                if not error.retryable or self._stopping.is_set() or self._give_up():
                    raise
                log.warning("waiting for the store %s: %s", self._storage.uri, error)
            else:
                return
            self.ticks += 1
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
