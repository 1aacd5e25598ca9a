"""The work of scorers: planned in small pieces, leased to shifts, and deleted with its result.

The same leases and fences as for rendering: a piece belongs to the live shift that took it, and
the transaction that records its scores also deletes it. So a piece is recorded once, whoever was
killed; a worker that was frozen, and whose piece went to another, finds it gone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from imagemill.db.queries.bulk import among, insert_many, upsert
from imagemill.db.queries.images import hold, in_state
from imagemill.db.queries.pictures.image_reports import own_key
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Object, Row, Score, ScoreFailure, ScoreWork, Shift

PIECE = 64
"""Images of one piece: what is computed again at most when a worker is lost."""

LOST = ("worker_lost", "its worker died or hung while this image was being judged")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkPiece:
    """Images that this shift is to judge now, by one version of one scorer."""

    id: int
    job_id: int
    route: str
    scorer: str
    version: str
    image_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredImage:
    """An image to be judged: its file, and what was asked for. A scorer gets it as its record."""

    image_id: int
    job_id: int
    generation: int
    object_key: str
    sha256: str
    prompt: str
    negative_prompt: str
    model: str
    seed: int
    width: int
    height: int
    row_key: str | None
    extras: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a scorer said of an image: its scores by name, or why it could not judge it."""

    image: ScoredImage
    scores: dict[str, float | str]
    error: tuple[str, str] | None = None
    """Code and message."""


def forget_waiting(session: Session, *, job_id: int, scorer: str) -> None:
    """Drop a scorer's work on a job that nobody has now: it is about to be planned again.

    That includes what a shift has given back, because no image may be queued, and paid for, twice.
    """
    session.execute(
        delete(ScoreWork).where(ScoreWork.job_id == job_id, ScoreWork.scorer == scorer, _free())
    )


def plan_work(
    session: Session,
    *,
    job_id: int,
    route: str,
    scorer: str,
    version: str,
    image_ids: Sequence[int],
) -> int:
    """Queue those of a job's done images that this version has not judged; how many there were."""
    wanted = session.scalars(
        select(Image.id)
        .where(
            among(session, Image.id, image_ids),
            in_state(ImageState.DONE),
            ~_judged(scorer, version),
        )
        .order_by(Image.id)
    ).all()
    pieces = [list(wanted[start : start + PIECE]) for start in range(0, len(wanted), PIECE)]
    _insert(session, job_id, route, scorer, version, pieces)
    return len(wanted)


def done_images(session: Session, job_id: int, *, after: int, limit: int) -> Sequence[int]:
    """The ids of a job's done images beyond `after`, in order."""
    return session.scalars(
        select(Image.id)
        .where(Image.job_id == job_id, Image.id > after, in_state(ImageState.DONE))
        .order_by(Image.id)
        .limit(limit)
    ).all()


def claim_piece(
    session: Session,
    *,
    shift_id: int,
    route: str,
    known: Collection[tuple[str, str]],
    max_losses: int,
) -> WorkPiece | None:
    """Lease a piece for one of these (scorer, version) pairs to this shift; None if none is left.

    A piece whose worker was lost comes back as single images, so that one image that kills its
    worker holds up no other. After `max_losses` losses such an image is recorded as a failure.
    """
    if not known or not hold(session, shift_id):
        return None
    while (row := _take(session, shift_id, route, known)) is not None:
        if row.losses and row.images > 1:
            _delete(session, row.id)
            singles = [[image_id] for image_id in row.image_ids]
            _insert(session, row.job_id, route, row.scorer, row.version, singles)
        elif row.losses >= max_losses:
            _delete(session, row.id)
            lost = to_judge(session, row.image_ids, row.scorer, row.version)
            failed = [Judgement(image=image, scores={}, error=LOST) for image in lost]
            _record(session, failed, row.scorer, row.version)
        else:
            return WorkPiece(
                id=row.id,
                job_id=row.job_id,
                route=route,
                scorer=row.scorer,
                version=row.version,
                image_ids=row.image_ids,
            )
    return None


def to_judge(
    session: Session, image_ids: Collection[int], scorer: str, version: str
) -> list[ScoredImage]:
    """Those of the images that are done and that this version has not judged, by id."""
    rows = session.execute(
        select(Image, Object.object_key, Object.sha256, Row.key_base, Row.extras)
        .join(Object, Object.id == Image.object_id)
        .join(Row, Row.id == Image.row_id)
        .where(
            among(session, Image.id, image_ids),
            in_state(ImageState.DONE),
            ~_judged(scorer, version),
        )
        .order_by(Image.id)
    )
    return [
        ScoredImage(
            image_id=image.id,
            job_id=image.job_id,
            generation=image.generation,
            object_key=object_key,
            sha256=sha256,
            prompt=image.prompt,
            negative_prompt=image.negative_prompt,
            model=image.model,
            seed=image.seed,
            width=image.width,
            height=image.height,
            row_key=own_key(key_base),
            extras=extras if isinstance(extras, dict) else {},
        )
        for image, object_key, sha256, key_base, extras in rows
    ]


def complete_piece(
    session: Session,
    *,
    shift_id: int,
    piece: WorkPiece,
    judgements: Sequence[Judgement],
    rest: Sequence[int] = (),
) -> bool:
    """Record a piece's result and delete the piece; False, and nothing, if it is no longer ours.

    `rest` are images of it that are still to be judged: they become a piece of their own.
    """
    if not hold(session, shift_id):
        return False
    mine = session.scalar(
        delete(ScoreWork)
        .where(ScoreWork.id == piece.id, ScoreWork.shift_id == shift_id)
        .returning(ScoreWork.id)
    )
    if mine is None:
        return False
    if rest:
        _insert(session, piece.job_id, piece.route, piece.scorer, piece.version, [list(rest)])
    _record(session, judgements, piece.scorer, piece.version)
    return True


def due_pieces(session: Session) -> dict[str, int]:
    """How many pieces may be taken now, by route."""
    rows = session.execute(
        select(ScoreWork.route, func.count()).where(_free()).group_by(ScoreWork.route)
    )
    return {row[0]: row[1] for row in rows}


def count_due(session: Session, *, route: str, known: Collection[tuple[str, str]]) -> int:
    """How many pieces on this route one of these (scorer, version) pairs may take now."""
    if not known:
        return 0
    due = select(func.count()).where(ScoreWork.route == route, _free(), _of(known))
    return session.scalar(due) or 0


def waiting_images(
    session: Session,
    job_ids: Collection[int],
    *,
    route: str,
    known: Collection[tuple[str, str]],
) -> int:
    """How many images of these jobs the scorers have yet to judge, those at work included."""
    total = select(func.coalesce(func.sum(ScoreWork.images), 0)).where(
        ScoreWork.job_id.in_(list(job_ids)), ScoreWork.route == route, _of(known)
    )
    return session.scalar(total) or 0


def _take(
    session: Session, shift_id: int, route: str, known: Collection[tuple[str, str]]
) -> Any | None:
    chosen = (
        select(ScoreWork.id)
        .where(ScoreWork.route == route, _free(), _of(known))
        .order_by(ScoreWork.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED")
    )
    before = aliased(Shift)
    was_lost = exists().where(before.id == ScoreWork.shift_id, before.end_reason == "lost")
    return session.execute(
        update(ScoreWork)
        .where(ScoreWork.id.in_(select(chosen.c.id)))
        .values(shift_id=shift_id, losses=ScoreWork.losses + case((was_lost, 1), else_=0))
        .returning(
            ScoreWork.id,
            ScoreWork.job_id,
            ScoreWork.scorer,
            ScoreWork.version,
            ScoreWork.images,
            ScoreWork.image_ids,
            ScoreWork.losses,
        )
    ).first()


def _free() -> ColumnElement[bool]:
    """Nobody has the piece, or its shift has ended: the rescuer ends those whose lease is over."""
    ended = exists().where(Shift.id == ScoreWork.shift_id, Shift.ended_at.is_not(None))
    return or_(ScoreWork.shift_id.is_(None), ended)


def _of(known: Collection[tuple[str, str]]) -> ColumnElement[bool]:
    """The piece is for one of these (scorer, version) pairs."""
    return or_(
        *(and_(ScoreWork.scorer == name, ScoreWork.version == version) for name, version in known)
    )


def _judged(scorer: str, version: str) -> ColumnElement[bool]:
    return exists().where(
        Score.image_id == Image.id,
        Score.scorer == scorer,
        Score.version == version,
        Score.generation == Image.generation,
    )


def _insert(
    session: Session,
    job_id: int,
    route: str,
    scorer: str,
    version: str,
    pieces: Sequence[list[int]],
) -> None:
    insert_many(
        session,
        ScoreWork,
        [
            {
                "job_id": job_id,
                "route": route,
                "scorer": scorer,
                "version": version,
                "images": len(ids),
                "image_ids": ids,
                "losses": 0,
            }
            for ids in pieces
        ],
    )


def _delete(session: Session, piece_id: int) -> None:
    session.execute(delete(ScoreWork).where(ScoreWork.id == piece_id))


def _record(session: Session, judgements: Sequence[Judgement], scorer: str, version: str) -> None:
    told = {"scorer": scorer, "version": version}
    upsert(
        session,
        Score,
        [
            {
                **told,
                "image_id": each.image.image_id,
                "generation": each.image.generation,
                "name": name,
                "value": None if isinstance(value, str) else value,
                "text": value if isinstance(value, str) else None,
            }
            for each in judgements
            for name, value in each.scores.items()
        ],
        key=("image_id", "name"),
    )
    judged = [each.image.image_id for each in judgements if each.error is None]
    session.execute(
        delete(ScoreFailure).where(
            ScoreFailure.scorer == scorer, among(session, ScoreFailure.image_id, judged)
        )
    )
    upsert(
        session,
        ScoreFailure,
        [
            {
                **told,
                "image_id": each.image.image_id,
                "generation": each.image.generation,
                "code": each.error[0],
                "message": each.error[1],
            }
            for each in judgements
            if each.error is not None
        ],
        key=("image_id", "scorer"),
    )
