"""A shift of scoring: pieces of work are leased, judged and recorded, one after another."""

import hashlib
import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from imagemill.db.errors import (
    ImagemillError,
    ObjectMissing,
    ScoreError,
    ServiceError,
    UsageError,
    first_line,
)
from imagemill.db.queries.work import score_work, shifts
from imagemill.db.queries.work.claims import RetryPolicy
from imagemill.db.queries.work.score_work import Judgement, ScoredImage, WorkPiece
from imagemill.worker.scores import Scorer
from imagemill.worker.scores.shelf import ScorerShelf, as_error, checked
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.leased_shift import ShiftEnd, leased_shift
from imagemill.worker.shifts.stop_reason import Stop, StopRule
from imagemill.worker.shifts.worker_context import WorkerContext

log = logging.getLogger(__name__)

READERS = 4
"""Threads that read and decode pictures."""

_CODE_LENGTH = 64


@dataclass(kw_only=True, slots=True)
class ScoreReport(ShiftEnd):
    """What a shift did, in images; `reason` says why it ended."""

    judged: int = 0
    failed: int = 0
    reason: str = "nothing left to judge"

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.judged} judged{failed} in {self.seconds:.1f} s; {self.reason}"


class ScoreShift:
    """Judges images for one worker until its time is over, nothing is left, or it must stop."""

    def __init__(self, context: WorkerContext, *, shelf: ScorerShelf) -> None:
        self._context = context
        self._database = context.database
        self._shelf = shelf
        self._report = ScoreReport()
        self._rule = StopRule.from_settings(context.settings, started=time.monotonic())

    def work(self) -> ScoreReport:
        """Do the shift. A `ServiceError` is raised after all work was given back."""
        policy = RetryPolicy.from_settings(self._context.settings)
        self._database.run(lambda session: shifts.rescue(session, policy=policy))
        if not self._database.run(
            lambda session: score_work.count_due(
                session, route=self._context.route, known=self._shelf.able
            )
        ):
            return self._report
        with leased_shift(self._context, end=self._report) as lease:
            self._work_on(lease)
        return self._report

    def _work_on(self, lease: Lease) -> None:
        with ThreadPoolExecutor(READERS, thread_name_prefix="score") as readers:
            while (stop := self._stop(lease)) is None:
                piece = self._claim(lease)
                if piece is None:
                    return
                try:
                    with lease.waiting():
                        scorer = self._shelf.find(piece.scorer)
                except UsageError as error:
                    # The piece goes back when the shift ends: another worker may have what it
                    # needs. This process takes no more of its kind.
                    log.warning("%s", error)
                    continue
                self._judge(piece, scorer, lease, readers)
        self._report.reason = stop.reason

    def _claim(self, lease: Lease) -> WorkPiece | None:
        return self._database.run(
            lambda session: score_work.claim_piece(
                session,
                shift_id=lease.shift_id,
                route=self._context.route,
                known=self._shelf.able,
                max_losses=self._context.settings.max_solo_losses,
            ),
            patience=lease.seconds_left,
        )

    def _judge(
        self, piece: WorkPiece, scorer: Scorer, lease: Lease, readers: ThreadPoolExecutor
    ) -> None:
        """Judge what is left of a piece, and record it."""
        with self._database.reading() as session:
            images = score_work.to_judge(session, piece.image_ids, piece.scorer, piece.version)
        read = list(readers.map(self._read, images))
        lease.note_progress()
        judgements = [each for each in read if isinstance(each, Judgement)]
        readable = [
            (image, each)
            for image, each in zip(images, read, strict=True)
            if not isinstance(each, Judgement)
        ]
        size, away = getattr(scorer, "batch", score_work.PIECE), None
        while readable and self._stop(lease) is None:
            try:
                judgements += _judgements(scorer, readable[:size])
            except ServiceError as error:
                away = error
                break
            readable = readable[size:]
            lease.note_progress()
        # What is judged may have been paid for: it is recorded, and only the rest is left.
        rest = [image.image_id for image, _ in readable]
        if judgements or not rest:
            self._record(piece, judgements, rest, lease)
        if away is not None:
            raise away

    def _record(
        self,
        piece: WorkPiece,
        judgements: Sequence[Judgement],
        rest: Sequence[int],
        lease: Lease,
    ) -> None:
        recorded = self._database.run(
            lambda session: score_work.complete_piece(
                session, shift_id=lease.shift_id, piece=piece, judgements=judgements, rest=rest
            ),
            patience=lease.seconds_left,
        )
        if recorded:
            failed = sum(each.error is not None for each in judgements)
            self._report.failed += failed
            self._report.judged += len(judgements) - failed

    def _read(self, image: ScoredImage) -> Image.Image | Judgement:
        """An image's picture, or why there is none. A store that is away is a `ServiceError`."""
        try:
            body = self._context.storage.get(image.object_key)
        except ObjectMissing as error:
            return _failure(image, error)
        if hashlib.sha256(body).hexdigest() != image.sha256:
            return _failure(image, ScoreError("its file is damaged: `imagemill verify` says more"))
        try:
            with Image.open(io.BytesIO(body)) as opened:
                return opened.convert("RGB")
        except Exception as error:  # Pillow raises many kinds
            return _failure(image, ScoreError(f"its file can't be read: {first_line(error)}"))

    def _stop(self, lease: Lease) -> Stop | None:
        return self._rule.stop(now=time.monotonic(), lease=lease, drain=self._context.drain)


def _judgements(
    scorer: Scorer, readable: Sequence[tuple[ScoredImage, Image.Image]]
) -> list[Judgement]:
    """What the scorer says of the pictures; after an error each is judged alone."""
    records, pictures = [each[0] for each in readable], [each[1] for each in readable]
    try:
        found = checked(scorer, scorer.score(pictures, records), len(pictures))
    except ServiceError:
        raise
    except Exception as error:  # a scorer's own code may raise anything
        if len(readable) > 1:
            return [told for each in readable for told in _judgements(scorer, [each])]
        return [_failure(records[0], as_error(error))]
    return [
        _failure(image, told)
        if isinstance(told, ImagemillError)
        else Judgement(image=image, scores=told)
        for image, told in zip(records, found, strict=True)
    ]


def _failure(image: ScoredImage, error: ImagemillError) -> Judgement:
    log.warning("image %s can't be judged: %s", image.image_id, error)
    # Postgres stores no NUL in a text.
    message = str(error).replace("\0", "")
    return Judgement(image=image, scores={}, error=(error.code[:_CODE_LENGTH], message))
