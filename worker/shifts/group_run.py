"""Rendering one group: fill the slots, step, hand over what is finished, until nothing is left.

Images of a forward pass that raised, or of a process that died, come back one at a time and are
rendered without neighbours. So the image that is at fault is found, and no other dies with it.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from imagemill.db.errors import (
    ImagemillError,
    OutOfMemory,
    RenderError,
    ServiceError,
    StorageDenied,
    first_line,
)
from imagemill.db.queries.work.claims import Claimed, GroupChoice
from imagemill.worker import metrics
from imagemill.worker.engine import Engine, Failed, PassFailed, Rendered
from imagemill.worker.shifts.leased_images import LeasedImages
from imagemill.worker.shifts.recorder import Recorder

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How long to wait for the store before a shift looks again whether it must stop."""

_PENDING_BATCHES = 4
"""How many batches may wait for storage before the engine waits too."""

_CLAIM_PAUSE_SECONDS = 0.5
"""How long to leave the database alone after a claim that found nothing, while images render."""

_GROUP_SECONDS = 120.0
"""How long a run goes on claiming before the shift asks again which group is due."""


class GroupRun:
    """One engine's work on one group, within a shift.

    It holds at most what is in the slots, B images that wait for a slot, and their followers.
    Followers ask for the same request as one of those, and become done together with it.

    A context manager: the shift calls `advance` until it says that nothing is left, or until the
    shift must stop. `claimed` counts images that were claimed, `rendered` those that were handed
    to the recorder, `failed` those that were charged a failure.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        leased_images: LeasedImages,
        recorder: Recorder,
        choice: GroupChoice,
    ) -> None:
        self.claimed = 0
        self.rendered = 0
        self.failed = 0
        self._engine = engine
        self._leased_images = leased_images
        self._recorder = recorder
        self._choice = choice
        self._waiting: deque[Claimed] = deque()
        self._rendering: dict[int, Claimed] = {}
        self._followers: dict[str, list[Claimed]] = {}
        self._applied = leased_images.lease.orders
        self._claims_until = time.monotonic() + _GROUP_SECONDS
        self._ask_again = 0.0
        self._may_pend = _PENDING_BATCHES * engine.slots

    def __enter__(self) -> "GroupRun":
        self._leased_images.lease.follow(self._engine)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Empty the engine, and give back, uncharged, what is not finished.

        After an error of a service nothing is given back here: the shift ends, and does it.
        """
        self._engine.abandon()
        if error is None or isinstance(error, OutOfMemory):
            self._let_go()

    def advance(self) -> bool:
        """Do what can be done now, one step at most; False if nothing of the group is left.

        A store that is behind is waited for a moment only, so that the shift can ask between two
        calls whether it must stop. `OutOfMemory` if the device is too small for this engine,
        which no image is charged for.
        """
        if not self._recorder.wait(at_most=self._may_pend, seconds=LOOK_SECONDS):
            return True
        self._may_pend = _PENDING_BATCHES * self._engine.slots
        if time.monotonic() < self._claims_until:
            self.claimed += self._claim()
        self._drop_stopped_jobs()
        self._admit()
        if not self._engine.busy and not self._waiting:
            return False
        self._step()
        return True

    def _claim(self) -> int:
        """Claim what the slots can take; when only some are free, a batch ahead.

        An idle engine is filled: one with recorded batches takes nobody until it is idle again.
        """
        room = 0 if self._solo_in_work else self._engine.room()
        if room == 0 or self._waiting or time.monotonic() < self._ask_again:
            return 0
        if self._engine.busy:
            return self._claim_some(self._engine.slots)
        claimed = 0
        while (free := room - len(self._waiting)) > 0:
            count = self._claim_some(free)
            claimed += count
            # Fewer than asked for: there are no more. No more room than before: all of them follow
            # others.
            if count < free or room - len(self._waiting) == free:
                break
        return claimed

    def _claim_some(self, limit: int) -> int:
        """Claim up to `limit` images. Those to be rendered wait; the others follow them."""
        claim = self._leased_images.claim(self._choice, limit=limit)
        self._leased_images.lease.note_progress()
        self.failed += claim.refused
        if claim.count == 0:
            self._ask_again = time.monotonic() + _CLAIM_PAUSE_SECONDS
        in_work = {image.request_key for image in (*self._rendering.values(), *self._waiting)}
        for image in claim.images:
            key = image.request_key
            if key in in_work:
                self._followers.setdefault(key, []).append(image)
            else:
                in_work.add(key)
                self._waiting.append(image)
        return claim.count

    @property
    def _solo_in_work(self) -> bool:
        return any(image.solo for image in self._rendering.values())

    def _admit(self) -> None:
        """Put waiting images into free slots; a suspect only into an empty engine."""
        if self._solo_in_work:
            return
        chosen: list[Claimed] = []
        room = self._engine.room()
        while self._waiting and len(chosen) < room:
            if self._waiting[0].solo:
                if not self._engine.busy and not chosen and self._all_recorded():
                    chosen.append(self._waiting.popleft())
                break
            chosen.append(self._waiting.popleft())
        if not chosen:
            return
        mine = self._leased_images.begin(chosen)
        self._rendering |= {image.id: image for image in mine}
        with self._charging_errors():
            self._engine.admit([(image.id, image.spec) for image in mine])

    def _all_recorded(self) -> bool:
        """Whether what was rendered is done; if not, the next `advance` waits for that first.

        A suspect may end the process, and what is not recorded then is charged along with it.
        """
        self._may_pend = 0
        return self._recorder.wait(seconds=0)

    def _step(self) -> None:
        if not self._engine.busy:
            return
        # The slot engine may have more images under way than a pass has places.
        metrics.BATCH_FILL.observe(min(1.0, len(self._rendering) / self._engine.slots))
        finished: list[Rendered | Failed] = []
        with self._charging_errors():
            finished = self._engine.step()
        for item in finished:
            image = self._rendering.pop(item.ticket)
            if isinstance(item, Rendered):
                self._followers.pop(image.request_key, None)
                environment = item.environment or self._engine.environment
                self._recorder.add(image, item, environment)
                self.rendered += 1
                if image.solo:
                    self._may_pend = 0
            else:
                self._fail(image, _charged(item.error))

    @contextmanager
    def _charging_errors(self) -> Iterator[None]:
        """Around a call of the engine: what it raises is charged to the images in it."""
        try:
            yield
        except OutOfMemory:
            raise
        except PassFailed as error:
            self._engine.cancel(error.tickets)
            self._suspect([self._rendering.pop(ticket) for ticket in sorted(error.tickets)], error)
        except ImagemillError as error:
            self._fail_all(_charged(error))
        except Exception as error:  # a model may raise anything
            log.exception("a forward pass raised")
            self._fail_all(RenderError(f"{type(error).__name__}: {first_line(error)}"))

    def _fail_all(self, error: ImagemillError) -> None:
        """Handle an error that any of the images in the engine may have caused."""
        images = list(self._rendering.values())
        self._engine.abandon()
        self._rendering.clear()
        self._suspect(images, error)

    def _suspect(self, images: Collection[Claimed], error: ImagemillError) -> None:
        """Handle a forward pass that failed: every image in it is a suspect now."""
        log.warning("a forward pass of %s images failed: %s", len(images), error)
        for image in images:
            self._fail(image, error, neighbours=len(images) > 1)

    def _fail(self, image: Claimed, error: ImagemillError, *, neighbours: bool = False) -> None:
        self.failed += self._leased_images.fail(image, error, neighbours=neighbours)
        self._give_back(self._followers.pop(image.request_key, ()))

    def _drop_stopped_jobs(self) -> None:
        """Let go of images whose job was paused or cancelled, once for every heartbeat.

        Only once, because what is claimed after the heartbeat belongs to a job that runs again.
        """
        orders = self._leased_images.lease.orders
        if orders is self._applied:
            return
        self._applied = orders
        stopped = [
            image
            for image in (*self._rendering.values(), *self._waiting, *self._following())
            if image.job_id in orders.stopped_jobs
        ]
        if not stopped:
            return
        ids = {image.id for image in stopped}
        self._engine.cancel(ids)
        for image in stopped:
            if self._rendering.pop(image.id, None) or image in self._waiting:
                stopped += self._followers.pop(image.request_key, [])
        self._waiting = deque(image for image in self._waiting if image.id not in ids)
        for key, followers in self._followers.items():
            self._followers[key] = [image for image in followers if image.id not in ids]
        self._give_back(stopped)

    def _following(self) -> Iterable[Claimed]:
        return (image for followers in self._followers.values() for image in followers)

    def _let_go(self) -> None:
        """Give back what is not finished. Followers of rendered images are no longer held."""
        if self._leased_images.lease.lost:
            return
        self._give_back([*self._rendering.values(), *self._waiting, *self._following()])

    def _give_back(self, images: Iterable[Claimed]) -> None:
        ids = {image.id for image in images}
        if ids:
            self._leased_images.give_back(ids)


def _charged(error: ImagemillError) -> ImagemillError:
    """The error if it is an image's own. An error of a service (fetching an input) is raised."""
    if isinstance(error, StorageDenied) or (isinstance(error, ServiceError) and error.retryable):
        raise error
    return error
