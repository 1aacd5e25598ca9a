"""What scorers have said of images, for those who read it. `score_work` has what they write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.images import in_state
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Job, Score, ScoreFailure, ScoreWork, Shift

Query: TypeAlias = "Select[*tuple[Any, ...]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary:
    """One score of a job: how many images have it, and how its values are spread.

    A score of texts has no values, but a number of different ones.
    """

    name: str
    scorer: str
    version: str
    images: int
    lowest: float | None
    mean: float | None
    highest: float | None
    distinct: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureSummary:
    """Why a scorer could not judge so many images of a job, with one of the messages."""

    scorer: str
    code: str
    images: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringReport:
    """What a scorer has left to judge of a job, in images; of them `running` are being judged."""

    job_id: int
    job_name: str
    scorer: str
    left: int
    running: int


def score_names(session: Session, job_id: int) -> set[str]:
    """The names of the scores that a job's pictures have."""
    return set(session.scalars(_present(select(Score.name), job_id).distinct()))


def summarize_scores(session: Session, job_id: int) -> Sequence[ScoreSummary]:
    """A job's scores by name."""
    columns = select(
        Score.name,
        Score.scorer,
        Score.version,
        func.count().label("images"),
        func.min(Score.value).label("lowest"),
        func.avg(Score.value).label("mean"),
        func.max(Score.value).label("highest"),
        func.count(Score.text.distinct()).label("distinct"),
    )
    grouped = _present(columns, job_id).group_by(Score.name, Score.scorer, Score.version)
    return [
        ScoreSummary(**{**row, "distinct": row["distinct"] if row["lowest"] is None else None})
        for row in session.execute(grouped.order_by(Score.name, Score.version)).mappings()
    ]


def summarize_failures(session: Session, job_id: int) -> Sequence[FailureSummary]:
    """Why scorers could not judge a job's images, by scorer and code."""
    rows = session.execute(
        select(
            ScoreFailure.scorer,
            ScoreFailure.code,
            func.count().label("images"),
            func.min(ScoreFailure.message).label("message"),
        )
        .join(
            Image,
            and_(Image.id == ScoreFailure.image_id, Image.generation == ScoreFailure.generation),
        )
        .where(Image.job_id == job_id, in_state(ImageState.DONE))
        .group_by(ScoreFailure.scorer, ScoreFailure.code)
        .order_by(ScoreFailure.scorer, ScoreFailure.code)
    ).mappings()
    return [FailureSummary(**row) for row in rows]


def list_scoring(session: Session, job_id: int | None = None) -> list[ScoringReport]:
    """The scoring work that waits or runs, of one job or of all, by job and scorer."""
    held = and_(Shift.ended_at.is_(None), Shift.lease_until > now())
    running = func.coalesce(func.sum(ScoreWork.images).filter(held), 0)
    query = (
        select(
            ScoreWork.job_id,
            Job.name.label("job_name"),
            ScoreWork.scorer,
            func.sum(ScoreWork.images).label("left"),
            running.label("running"),
        )
        .join(Job, Job.id == ScoreWork.job_id)
        .outerjoin(Shift, Shift.id == ScoreWork.shift_id)
        .group_by(ScoreWork.job_id, Job.name, ScoreWork.scorer)
        .order_by(ScoreWork.job_id, ScoreWork.scorer)
    )
    if job_id is not None:
        query = query.where(ScoreWork.job_id == job_id)
    return [
        ScoringReport(**{**row, "left": int(row["left"]), "running": int(row["running"])})
        for row in session.execute(query).mappings()
    ]


def waiting_by_scorer(session: Session, job_id: int) -> dict[str, int]:
    """How many of a job's images each scorer has yet to judge."""
    rows = session.execute(
        select(ScoreWork.scorer, func.sum(ScoreWork.images))
        .where(ScoreWork.job_id == job_id)
        .group_by(ScoreWork.scorer)
        .order_by(ScoreWork.scorer)
    )
    return {row[0]: int(row[1]) for row in rows}


def scores_of(
    session: Session, job_id: int, *, first: int, last: int
) -> dict[int, dict[str, float | str]]:
    """The scores of a job's present pictures by name, for images from one id to another."""
    found: dict[int, dict[str, float | str]] = {}
    columns = select(Score.image_id, Score.name, Score.value, Score.text)
    query = _present(columns, job_id).where(Score.image_id.between(first, last))
    for image_id, name, value, text in session.execute(query.order_by(Score.image_id, Score.name)):
        found.setdefault(image_id, {})[name] = text if value is None else value
    return found


def _present(columns: Query, job_id: int) -> Query:
    """Only the scores of pictures that the job's images have now."""
    return columns.join(
        Image, and_(Image.id == Score.image_id, Image.generation == Score.generation)
    ).where(Image.job_id == job_id, in_state(ImageState.DONE))
