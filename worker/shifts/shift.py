"""A shift: the work of one Celery task. It renders one group after another on one lease.

The loop knows only the protocols `Shelf` and `Engine`. So the same code runs on a GPU, on a CPU and
in the tests that inject faults.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagemill.db.errors import (
    ImagemillError,
    ModelError,
    OutOfMemory,
    OverLimit,
    ServiceError,
    first_line,
)
from imagemill.db.queries.work import claims, shifts
from imagemill.db.queries.work.claims import GroupChoice, RetryPolicy
from imagemill.worker.engine import Engine
from imagemill.worker.shifts.group_run import LOOK_SECONDS, GroupRun
from imagemill.worker.shifts.leased_images import LeasedImages
from imagemill.worker.shifts.leased_shift import ShiftEnd, leased_shift
from imagemill.worker.shifts.limits import RenderLimits
from imagemill.worker.shifts.recorder import Recorder
from imagemill.worker.shifts.shelf import Shelf
from imagemill.worker.shifts.stop_reason import Stop, StopRule
from imagemill.worker.shifts.worker_context import WorkerContext

log = logging.getLogger(__name__)

_REFUSED_IMAGES = 8
"""How many images die with the reason when this worker can't load their model.

They are few, because a worker that is wrongly set up must not use up a job that others can render.
"""

_AVOIDED_SECONDS = 60.0
"""How long a worker leaves a group alone whose model it could not load."""


@dataclass(kw_only=True, slots=True)
class ShiftReport(ShiftEnd):
    """What a shift did. Flower shows its text as the result of the task."""

    done: int = 0
    failed: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    reason: str = "nothing left to do"

    def __str__(self) -> str:
        """One readable line, without prompts."""
        parts = [f"{self.done} done in {self.seconds:.0f} s"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.given_back:
            parts.append(f"{self.given_back} given back")
        if self.groups:
            parts.append(", ".join(f"{group}: {count}" for group, count in self.groups.items()))
        return f"{'; '.join(parts)} ({self.reason})"


class AvoidedGroups:
    """Groups whose model this process could not load lately. It outlives a shift."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def add(self, group_id: int) -> None:
        """Leave a group alone for a while."""
        self._until[group_id] = time.monotonic() + _AVOIDED_SECONDS

    def current(self) -> set[int]:
        """The groups to leave alone now."""
        now = time.monotonic()
        self._until = {group: until for group, until in self._until.items() if until > now}
        return set(self._until)


class Shift:
    """Renders for one worker until the time is over, nothing is left, or it is told to stop.

    `avoided` outlives the shift, if the worker has one.
    """

    def __init__(
        self, context: WorkerContext, *, shelf: Shelf, avoided: AvoidedGroups | None = None
    ) -> None:
        self._context = context
        self._database = context.database
        self._shelf = shelf
        self._avoided = avoided or AvoidedGroups()
        self._policy = RetryPolicy.from_settings(context.settings)
        self._limits = RenderLimits.from_settings(context.settings)
        self._report = ShiftReport()
        self._rule = StopRule.from_settings(context.settings, started=time.monotonic())

    def work(self) -> ShiftReport:
        """Do the shift. A `ServiceError` is raised after all images were given back."""
        self._database.run(lambda session: shifts.rescue(session, policy=self._policy))
        if self._choose(set(), ()) is None:
            return self._report
        with leased_shift(self._context, end=self._report) as lease:
            leased_images = LeasedImages(
                database=self._database,
                lease=lease,
                route=self._context.route,
                policy=self._policy,
                limits=self._limits,
            )
            self._work_on(leased_images)
        return self._report

    def _work_on(self, leased_images: LeasedImages) -> None:
        with Recorder(leased_images=leased_images, storage=self._context.storage) as recorder:
            try:
                stop = self._render_groups(leased_images, recorder)
                stop = self._await_store(leased_images, recorder, stop)
            finally:
                self._report.done = recorder.done
                self._report.failed += recorder.failed
        if stop is not None:
            self._report.reason = stop.reason

    def _render_groups(self, leased_images: LeasedImages, recorder: Recorder) -> Stop | None:
        """Render one group after another; why that stopped, or None if nothing is left."""
        exhausted: set[int] = set()
        # Each shift starts with the job that is due, whatever is loaded: otherwise a long job
        # would keep every other model waiting. From then on loaded models go first.
        loaded: Sequence[str] = ()
        while (stop := self._stop(leased_images, recorder)) is None:
            choice = self._choose(exhausted, loaded)
            if choice is None:
                return None
            engine = self._open(leased_images, choice)
            loaded = self._shelf.loaded
            if engine is not None and self._render(choice, engine, leased_images, recorder) == 0:
                exhausted.add(choice.id)
        return stop

    def _render(
        self, choice: GroupChoice, engine: Engine, leased_images: LeasedImages, recorder: Recorder
    ) -> int:
        """Render one group until nothing of it is left or the shift must stop; images claimed."""
        run = GroupRun(engine=engine, leased_images=leased_images, recorder=recorder, choice=choice)
        try:
            with run:
                while self._stop(leased_images, recorder) is None and run.advance():
                    pass
        except OutOfMemory as error:
            if self._shelf.shrink(choice):
                log.warning("%s; going on with more room", error)
            else:
                self._leave(leased_images, choice, error)
            return 1
        finally:
            self._report.failed += run.failed
            self._report.groups[_group_name(choice)] += run.rendered
        return run.claimed

    def _await_store(
        self, leased_images: LeasedImages, recorder: Recorder, stop: Stop | None
    ) -> Stop | None:
        """Wait until what is rendered is recorded, or may not be waited for any longer.

        A drain may begin meanwhile, and then leaves the store less time: the newest reason to
        stop is the one that counts, and is returned.
        """
        while not recorder.wait(seconds=LOOK_SECONDS):
            stop = self._stop(leased_images, recorder) or stop
            if stop is not None and time.monotonic() > stop.store_until:
                break
        # What was recorded last counts for nothing then.
        return self._stop(leased_images, recorder) if leased_images.lease.lost else stop

    def _stop(self, leased_images: LeasedImages, recorder: Recorder) -> Stop | None:
        """Why to stop now, if at all; asked between two steps, and nowhere else.

        A limit below what a model needs is passed at the first step of every shift. So each shift
        finishes an image before it ends for that: the worker gets slow and never stands still.
        """
        has_result = recorder.done + recorder.failed > 0
        return self._rule.stop(
            now=time.monotonic(),
            lease=leased_images.lease,
            drain=self._context.drain,
            over_memory=has_result and self._context.memory_limit.passed(),
        )

    def _open(self, leased_images: LeasedImages, choice: GroupChoice) -> Engine | None:
        """The group's engine. None if this worker can't serve it; then its images say why."""
        try:
            self._limits.check_group(choice.document)
            with leased_images.lease.waiting():
                return self._shelf.engine(choice)
        except OutOfMemory as error:
            self._leave(leased_images, choice, error)
        except (ModelError, OverLimit) as error:
            self._refuse(leased_images, choice, error)
        except ServiceError:
            raise
        except Exception as error:  # damaged weights raise anything
            log.exception("a model could not be loaded")
            problem = f"{choice.model_name}: {type(error).__name__}: {first_line(error)}"
            self._refuse(leased_images, choice, ModelError(problem))
        return None

    def _leave(self, leased_images: LeasedImages, choice: GroupChoice, error: OutOfMemory) -> None:
        """Leave a group that does not fit into this card to workers with more memory.

        No image is charged. On a device whose memory has no size of its own, a few die with the
        reason: nobody could say that there is a worker on which they fit.
        """
        if self._shelf.refuse(choice):
            log.warning("%s does not fit into this card: %s", _group_name(choice), error)
            self._avoided.add(choice.id)
        else:
            self._refuse(leased_images, choice, error)

    def _refuse(
        self, leased_images: LeasedImages, choice: GroupChoice, error: ImagemillError
    ) -> None:
        """Let a few images of the group die with the reason, and avoid the group for a while."""
        log.warning("can't render %s: %s", _group_name(choice), error)
        self._avoided.add(choice.id)
        claim = leased_images.claim(choice, limit=_REFUSED_IMAGES)
        self._report.failed += claim.refused
        for image in claim.images:
            self._report.failed += leased_images.fail(image, error, final=True)

    def _choose(self, exhausted: set[int], loaded: Sequence[str]) -> GroupChoice | None:
        avoided = exhausted | self._avoided.current()
        return self._database.run(
            lambda session: claims.choose_group(
                session,
                route=self._context.route,
                loaded=loaded,
                avoided=avoided,
                worker_id=self._context.worker_id,
            )
        )


def _group_name(choice: GroupChoice) -> str:
    document = choice.document
    return f"{choice.model_name} {document.get('width')}x{document.get('height')}"
