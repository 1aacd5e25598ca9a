"""After the denoiser: encode, hash, upload and commit in threads, so that the GPU never waits.

The order makes the effect exactly-once: the file is in storage and verified before the transaction
that makes its images done. A crash in between leaves a file without a row. The next attempt finds
and adopts it, or `sweep` removes it.
"""

import itertools
import logging
import queue
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from imagemill.db.errors import (
    ImagemillError,
    ObjectConflict,
    RenderError,
    StorageError,
    first_line,
)
from imagemill.db.process.logs import log_fields
from imagemill.db.queries.pictures.objects import NewObject
from imagemill.db.queries.work.claims import Claimed
from imagemill.db.specs import FILE_SUFFIXES, METADATA_VERSION
from imagemill.db.storage import Storage
from imagemill.db.storage.keys import object_key
from imagemill.worker import metrics
from imagemill.worker.engine import Rendered
from imagemill.worker.files.encoder import EncodedImage, encode
from imagemill.worker.files.records import ImageRecord, pixels_sha256
from imagemill.worker.shifts.leased_images import LeasedImages

if TYPE_CHECKING:
    from imagemill.worker.models.environment import Environment

log = logging.getLogger(__name__)

COMMIT_IMAGES = 64
COMMIT_SECONDS = 0.2
"""The most images of one commit, and the longest time that it waits for more of them.

It waits for nobody once somebody waits for the commit itself and no other image is on its way.
"""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0

_LAST_COMMIT_SECONDS = 5.0
"""How long a shift that must end waits for a commit that the database does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """An object whose file is in the store, and what rendered it."""

    new: NewObject
    environment: "Environment"
    model: str


class _Signal(Enum):
    """What the committing thread is told beside images."""

    AWAITED = "somebody waits for what is stored"
    END = "nothing more will come"


class Recorder:
    """Takes rendered images and makes them done, for one shift; a context manager.

    A store that does not answer is tried again until the shift leaves. `done` counts images that
    are done, `failed` those that no file could be made of. A service that failed for good is
    raised by the next call.
    """

    def __init__(
        self,
        *,
        leased_images: LeasedImages,
        storage: Storage,
        threads: int = 2,
    ) -> None:
        self.done = 0
        self.failed = 0
        self._leased_images = leased_images
        self._storage = storage
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._committer = threading.Thread(target=self._commit_all, name="commit", daemon=True)
        self._stored: queue.SimpleQueue[_Stored | _Signal] = queue.SimpleQueue()
        self._awaited = False
        self._changed = threading.Condition()
        self._pending = 0
        self._failure: BaseException | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> "Recorder":
        self._committer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what is stored, drop what is not, and end the threads.

        A request that hangs in a thread is left alone. The worst that it can do later is to leave
        a file without a row.
        """
        self._stopping.set()
        self._pool.shutdown(wait=self._pending == 0, cancel_futures=True)
        self._stored.put(_Signal.END)
        self._committer.join(timeout=_LAST_COMMIT_SECONDS)

    def add(self, image: Claimed, rendered: Rendered, environment: "Environment") -> None:
        """Take over a rendered image; returns at once."""
        self._raise_failure()
        with self._changed:
            self._pending += 1
        future = self._pool.submit(self._store_named, image, rendered, environment)
        future.add_done_callback(self._on_stored)

    def wait(self, *, at_most: int = 0, seconds: float | None = None) -> bool:
        """Wait until at most so many images are not recorded yet; False if `seconds` were over.

        The engine must not run away from a store or database that is slower than it.
        """
        with self._changed:
            self._awaited = self._pending > at_most
            if self._awaited:
                self._stored.put(_Signal.AWAITED)
            reached = self._changed.wait_for(
                lambda: self._pending <= at_most or self._failure is not None, seconds
            )
            reached = reached and self._pending <= at_most
            self._awaited = False
        self._raise_failure()
        return reached

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _on_stored(self, future: Future[_Stored | None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._fail(error)
        elif (ready := future.result()) is not None:
            self._stored.put(ready)
        else:
            self._count_recorded(1)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _count_recorded(self, count: int) -> None:
        self._leased_images.lease.note_progress()
        with self._changed:
            self._pending -= count
            self._changed.notify_all()

    def _commit_all(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._next_batch()
            try:
                self._commit(batch)
            except Exception as error:  # handed to the shift, which raises it
                self._fail(error)
                return

    def _next_batch(self) -> tuple[list[_Stored], bool]:
        """What to commit together, and whether it is the last of all."""
        batch: list[_Stored] = []
        deadline: float | None = None
        while len(batch) < COMMIT_IMAGES:
            if batch and self._awaited and len(batch) >= self._pending:
                break
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                item = self._stored.get(timeout=timeout)
            except queue.Empty:
                break
            if item is _Signal.END:
                return batch, True
            if isinstance(item, _Stored):
                batch.append(item)
                deadline = deadline or time.monotonic() + COMMIT_SECONDS
        return batch, False

    def _commit(self, batch: list[_Stored]) -> None:
        by_environment: dict[str, list[_Stored]] = {}
        for item in batch:
            by_environment.setdefault(item.environment.fingerprint(), []).append(item)
        for items in by_environment.values():
            self.done += self._record(items)
        if batch:
            self._count_recorded(len(batch))

    def _record(self, items: list[_Stored]) -> int:
        """Commit objects of one environment; how many images became done."""
        with metrics.STAGE_SECONDS.labels("commit").time():
            stored = [item.new for item in items]
            done = self._leased_images.complete(stored, items[0].environment)
        if done:  # else the lease was lost, and others render these images
            for item in items:
                metrics.IMAGES.labels(model=item.model, outcome=item.new.outcome).inc()
        return done

    def _store_named(
        self, image: Claimed, rendered: Rendered, environment: "Environment"
    ) -> _Stored | None:
        """Do `_store`; every line that it logs names the image."""
        shift_id = self._leased_images.lease.shift_id
        with log_fields(shift=shift_id, job=image.job_id, image=image.id):
            return self._store(image, rendered, environment)

    def _store(
        self, image: Claimed, rendered: Rendered, environment: "Environment"
    ) -> _Stored | None:
        """Make a file and store it. None if no file can be made; the image is charged with that."""
        try:
            with metrics.STAGE_SECONDS.labels("encode").time():
                encoded = _encoded(image, rendered, environment)
            key = object_key(image.request_key, encoded.sha256, FILE_SUFFIXES[image.spec.format])
            with metrics.STAGE_SECONDS.labels("store").time():
                self._put(image, key, encoded)
        except (RenderError, ObjectConflict) as error:
            # The image's own fault. Without a charge it would end one shift after another.
            self.failed += self._leased_images.fail(image, error)
            return None
        new = NewObject(
            request_key=image.request_key,
            object_key=key,
            uri=self._storage.object_uri(key),
            sha256=encoded.sha256,
            pixels_sha256=encoded.pixels_sha256,
            size_bytes=len(encoded.body),
            width=encoded.width,
            height=encoded.height,
            format=image.spec.format,
            outcome=rendered.outcome,
            cut=rendered.cut,
            seconds=rendered.seconds,
            composition=rendered.composition,
        )
        metrics.STAGE_SECONDS.labels("render").observe(rendered.seconds)
        metrics.STORED_BYTES.inc(len(encoded.body))
        self._leased_images.lease.note_progress()
        return _Stored(new=new, environment=environment, model=image.spec.model)

    def _put(self, image: Claimed, key: str, encoded: EncodedImage) -> None:
        pause = _FIRST_PAUSE_SECONDS
        for attempt in itertools.count():
            try:
                self._storage.put(key, encoded.body, media_type=encoded.media_type)
            except StorageError as error:
                if not error.retryable or self._stopping.is_set():
                    raise
                log.warning("waiting for the store %s: %s", self._storage.uri, error)
                if attempt == 0:
                    # From here on only the store is waited for, so a lost worker is not the
                    # image's fault. Before the first try it might be: an image whose storing
                    # kills the process must be charged, or it would kill one after another.
                    self._leased_images.end_rendering(image)
            else:
                return
            self._leased_images.lease.note_progress()
            self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _encoded(image: Claimed, rendered: Rendered, environment: "Environment") -> EncodedImage:
    """The image's file; a `RenderError` where its format can't hold the picture."""
    try:
        record = ImageRecord(
            spec=image.spec,
            environment=environment.document(),
            pixels_sha256=pixels_sha256(rendered.pixels),
            outcome=rendered.outcome,
            prompt_cut=rendered.cut,
            # A job may be older than this version. Its request names the file that it asked for.
            metadata_version=image.spec.metadata_version_of(image.request_key) or METADATA_VERSION,
        )
        return encode(rendered.pixels, record)
    except ImagemillError:
        raise
    except Exception as error:  # Pillow raises many kinds
        raise RenderError(
            f"can't write it as {image.spec.format}: {type(error).__name__}: {first_line(error)}"
        ) from error
