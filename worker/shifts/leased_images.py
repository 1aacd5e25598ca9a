"""What a shift may do with the images that it holds. Each method is one fenced transaction.

After the end of the lease a call changes nothing. So no call waits for the database longer than
the lease lasts.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, RenderError
from imagemill.db.queries.images import Failure
from imagemill.db.queries.pictures import environments, objects
from imagemill.db.queries.pictures.objects import NewObject
from imagemill.db.queries.work import claims
from imagemill.db.queries.work.claims import Claimed, GroupChoice, RetryPolicy
from imagemill.db.states import ImageState
from imagemill.worker import metrics
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.limits import RenderLimits

if TYPE_CHECKING:
    from imagemill.worker.models.environment import Environment

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claim brought: the images to be rendered.

    `reused` images were done at once, because their request has a file already. `refused` images
    are dead, because they are beyond this worker's limits.
    """

    images: tuple[Claimed, ...]
    reused: int = 0
    refused: int = 0

    @property
    def count(self) -> int:
        """How many images were claimed in all."""
        return len(self.images) + self.reused + self.refused


class LeasedImages:
    """The images of one shift, in the database. Safe to use from several threads."""

    def __init__(
        self,
        *,
        database: Database,
        lease: Lease,
        route: str,
        policy: RetryPolicy,
        limits: RenderLimits,
    ) -> None:
        self.lease = lease
        self._database = database
        self._shift_id = lease.shift_id
        self._route = route
        self._policy = policy
        self._limits = limits
        self._environment_ids: dict[str, int] = {}

    def claim(self, choice: GroupChoice, *, limit: int) -> Claim:
        """Claim images, and finish at once those whose request has a file already.

        An image beyond the limits is dead in the same transaction, before anything is done by
        its request key: nobody must be given a file by a key that is not its own.
        """

        def work(session: Session) -> tuple[list[Claimed], set[str], list[_Refusal]]:
            claimed = claims.claim(
                session,
                shift_id=self._shift_id,
                group_id=choice.id,
                route=self._route,
                limit=limit,
            )
            refusals = list(_refusals(claimed, self._limits, choice.document))
            for image, error in refusals:
                claims.fail(
                    session,
                    shift_id=self._shift_id,
                    image_id=image.id,
                    failure=_failure(image, error, retryable=False),
                    policy=self._policy,
                )
            refused = {image.id for image, _ in refusals}
            images = [image for image in claimed if image.id not in refused]
            known = set(objects.find_objects(session, [image.request_key for image in images]))
            if known:
                objects.finish_known(session, shift_id=self._shift_id, request_keys=known)
            return images, known, refusals

        with metrics.STAGE_SECONDS.labels("claim").time():
            images, known, refusals = self._run(work)
        for image, error in refusals:
            _tell_failure(image, error, ImageState.DEAD)
        unknown = tuple(image for image in images if image.request_key not in known)
        for image in images:
            if image.request_key in known:
                metrics.IMAGES.labels(model=image.spec.model, outcome="reused").inc()
        return Claim(images=unknown, reused=len(images) - len(unknown), refused=len(refusals))

    def begin(self, images: Sequence[Claimed]) -> list[Claimed]:
        """Record that rendering begins; returns the images that are still ours."""
        ids = [image.id for image in images]
        mine = self._run(
            lambda session: claims.begin(session, shift_id=self._shift_id, image_ids=ids)
        )
        return [image for image in images if image.id in mine]

    def end_rendering(self, image: Claimed) -> None:
        """Record that an image is rendered and only has to be stored."""
        self._run(
            lambda session: claims.end_rendering(
                session, shift_id=self._shift_id, image_id=image.id
            )
        )

    def fail(
        self,
        image: Claimed,
        error: ImagemillError,
        *,
        neighbours: bool = False,
        final: bool = False,
    ) -> bool:
        """Charge a failure to an image; returns whether the image was still ours.

        With `neighbours` in the forward pass the error says nothing about this image, so it only
        becomes a suspect. `final` says that no retry here can help: the image is dead at once.
        """
        retryable = neighbours or (error.retryable and not final)
        failure = _failure(image, error, retryable=retryable)
        state = self._run(
            lambda session: claims.fail(
                session,
                shift_id=self._shift_id,
                image_id=image.id,
                failure=failure,
                policy=self._policy,
            )
        )
        _tell_failure(image, error, state)
        return state is not None

    def give_back(self, image_ids: Collection[int] | None = None) -> int:
        """Give back these images, or all, without a charge; how many there were."""
        return self._run(
            lambda session: claims.give_back(session, shift_id=self._shift_id, image_ids=image_ids)
        )

    def complete(self, stored: Collection[NewObject], environment: "Environment") -> int:
        """Make every image done that waits for one of these files; how many became done."""

        fingerprint = environment.fingerprint()

        def work(session: Session) -> tuple[int, int]:
            environment_id = self._environment_ids.get(fingerprint)
            if environment_id is None:
                environment_id = environments.environment_id(
                    session, fingerprint=fingerprint, document=environment.document()
                )
            done = objects.complete(
                session,
                shift_id=self._shift_id,
                environment_id=environment_id,
                stored=stored,
            )
            return done, environment_id

        done, environment_id = self._run(work)
        # Only now: an id of a transaction that was rolled back is nobody's.
        self._environment_ids[fingerprint] = environment_id
        return done

    def _run(self, work: Callable[[Session], T]) -> T:
        return self._database.run(work, patience=self.lease.seconds_left)


_Refusal = tuple[Claimed, RenderError]


def _refusals(
    images: Sequence[Claimed], limits: RenderLimits, group: Mapping[str, Any]
) -> Iterator[_Refusal]:
    for image in images:
        try:
            limits.check(image, group)
        except RenderError as error:
            yield image, error


def _failure(image: Claimed, error: ImagemillError, *, retryable: bool) -> Failure:
    return Failure(code=error.code, message=error.message, retryable=retryable, solo=image.solo)


def _tell_failure(image: Claimed, error: ImagemillError, state: ImageState | None) -> None:
    if state is not None:
        metrics.FAILURES.labels(code=error.code, state=state).inc()
    log.warning(
        "image %s failed, now %s: %s",
        image.id,
        state or "not ours",
        error.message,
        extra={"job": image.job_id, "image": image.id},
    )
