"""Rendering one group: fill the slots, step, hand over what is finished, until nothing is left.

Images of a forward pass that raised, or of a process that died, come back one at a time and are
rendered with no neighbour, so that the one that did it is found and takes no other with it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

from sqlalchemy.orm import Session

from db.database import Database
from db.errors import ImagemillError, RenderError, first_line
from db.queries import claims, objects
from db.queries.claims import Claimed, Failure, RetryPolicy
from worker.engine import Engine, Rendered
from worker.lease import Lease
from worker.recording import Recorder

log = logging.getLogger(__name__)

_PENDING_BATCHES = 4
"""How many batches may wait for storage before the engine waits too."""

_CLAIM_PAUSE_SECONDS = 0.5
"""How long to leave the database alone after a claim that found nothing, while images render."""

_GROUP_SECONDS = 120.0
"""How long a run goes on claiming before the shift asks again which group is due."""


class GroupRun:
    """One engine's work on one group, within a shift.

    It holds at most what is in the slots plus B waiting for one. `rendered` counts images that
    were handed to the recorder, `failed` those that were charged a failure; `ticks` moves while
    the engine works.
    """

    def __init__(
        self,
        *,
        database: Database,
        engine: Engine,
        recorder: Recorder,
        lease: Lease,
        group_id: int,
        route: str,
        policy: RetryPolicy,
        must_stop: Callable[[], bool],
    ) -> None:
        self.rendered = 0
        self.failed = 0
        self._claims = 0
        self._database = database
        self._engine = engine
        self._recorder = recorder
        self._lease = lease
        self._group_id = group_id
        self._route = route
        self._policy = policy
        self._must_stop = must_stop
        self._waiting: deque[Claimed] = deque()
        self._rendering: dict[int, Claimed] = {}
        self._ask_again = 0.0

    @property
    def ticks(self) -> int:
        """A number that moves while work gets on."""
        return self._engine.steps + self._claims

    def work(self) -> int:
        """Render until nothing of the group can be claimed, or the shift must stop.

        How many images were claimed. What is not finished then is given back, uncharged.
        """
        claimed = 0
        ends = time.monotonic() + _GROUP_SECONDS
        try:
            while not self._must_stop():
                if time.monotonic() < ends:
                    claimed += self._claim()
                self._drop_stopped_jobs()
                self._admit()
                if not self._engine.busy and not self._waiting:
                    break
                self._step()
                self._recorder.wait(at_most=_PENDING_BATCHES * self._engine.slots)
        finally:
            left = [*self._engine.abandon(), *(image.id for image in self._waiting)]
        if left and not self._lease.lost:
            self._give_back(left)
        return claimed

    def _claim(self) -> int:
        """Claim what the slots can take; when only some are free, a batch ahead."""
        room = 0 if self._solo_in_work else self._engine.room()
        if room == 0 or self._waiting or time.monotonic() < self._ask_again:
            return 0
        limit = self._engine.slots if self._engine.busy else room
        images, known = self._database.run(lambda session: self._claim_new(session, limit))
        self._claims += 1
        if not images:
            self._ask_again = time.monotonic() + _CLAIM_PAUSE_SECONDS
        in_work = known | {image.request_key for image in self._rendering.values()}
        for image in images:
            # A second image of the same request becomes done together with the first.
            if image.request_key not in in_work:
                in_work.add(image.request_key)
                self._waiting.append(image)
        return len(images)

    def _claim_new(self, session: Session, limit: int) -> tuple[list[Claimed], set[str]]:
        """Claim images, and finish at once those whose request has a file by now."""
        shift_id = self._lease.shift_id
        images = claims.claim(
            session, shift_id=shift_id, group_id=self._group_id, route=self._route, limit=limit
        )
        known = set(objects.find_objects(session, [image.request_key for image in images]))
        if known:
            objects.finish_known(session, shift_id=shift_id, request_keys=known)
        return images, known

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
                if not self._engine.busy and not chosen:
                    chosen.append(self._waiting.popleft())
                break
            chosen.append(self._waiting.popleft())
        if not chosen:
            return
        mine = self._database.run(
            lambda session: claims.begin(
                session,
                shift_id=self._lease.shift_id,
                image_ids=[image.id for image in chosen],
            )
        )
        chosen = [image for image in chosen if image.id in mine]
        self._rendering |= {image.id: image for image in chosen}
        try:
            self._engine.admit([(image.id, image.spec) for image in chosen])
        except ImagemillError as error:
            self._fail_all(error)

    def _step(self) -> None:
        if not self._engine.busy:
            return
        try:
            finished = self._engine.step()
        except ImagemillError as error:
            self._fail_all(error)
            return
        except Exception as error:  # whatever a model raises is a failure of its images
            log.exception("a forward pass raised")
            self._fail_all(RenderError(f"{type(error).__name__}: {first_line(error)}"))
            return
        for item in finished:
            image = self._rendering.pop(item.ticket)
            if isinstance(item, Rendered):
                environment = item.environment or self._engine.environment
                self._recorder.add(image, item, environment)
                self.rendered += 1
            else:
                self._fail(image, item.error)

    def _fail_all(self, error: ImagemillError) -> None:
        """The forward pass itself failed: every image in it is a suspect now."""
        log.warning("a forward pass of %s images failed: %s", len(self._rendering), error)
        self._engine.abandon()
        images = list(self._rendering.values())
        self._rendering.clear()
        for image in images:
            self._fail(image, error)

    def _fail(self, image: Claimed, error: ImagemillError) -> None:
        failure = Failure(
            code=error.code, message=error.message, retryable=error.retryable, solo=image.solo
        )
        state = self._database.run(
            lambda session: claims.fail(
                session,
                shift_id=self._lease.shift_id,
                image_id=image.id,
                failure=failure,
                policy=self._policy,
            )
        )
        self.failed += state is not None
        log.warning("image %s failed, now %s: %s", image.id, state, error.message)

    def _drop_stopped_jobs(self) -> None:
        """Let go of images whose job was paused or cancelled."""
        stopped = self._lease.orders.stopped_jobs
        if not stopped:
            return
        rendering = [image.id for image in self._rendering.values() if image.job_id in stopped]
        dropped = self._engine.cancel(rendering)
        for image_id in dropped:
            del self._rendering[image_id]
        dropped += [image.id for image in self._waiting if image.job_id in stopped]
        self._waiting = deque(image for image in self._waiting if image.job_id not in stopped)
        if dropped:
            self._give_back(dropped)

    def _give_back(self, image_ids: list[int]) -> None:
        self._database.run(
            lambda session: claims.give_back(
                session, shift_id=self._lease.shift_id, image_ids=image_ids
            )
        )
