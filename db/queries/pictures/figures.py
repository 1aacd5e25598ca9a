"""Figures of a whole job for its report: how values are spread, and when images became done.

Reads only. Each figure is one pass over the job's images.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagemill.db.queries.images import in_state
from imagemill.db.states import ImageState
from imagemill.db.tables import Attempt, Image, Row, Score

PAGE = 10_000
"""Rows that are fetched at once."""

PARAMETERS: Mapping[str, Sequence[InstrumentedAttribute[Any]]] = MappingProxyType(
    {
        "state": (Image.state,),
        "outcome": (Image.outcome,),
        "error_code": (Image.error_code,),
        "model": (Image.model,),
        "sampler": (Image.sampler,),
        "steps": (Image.steps,),
        "guidance_scale": (Image.guidance_scale,),
        "size": (Image.width, Image.height),
    }
)
"""What is counted, with the columns that it is made of. A size is written `64x64`."""


def count_values(session: Session, job_id: int, name: str) -> dict[Any, int]:
    """How many of a job's images have each value of one of `PARAMETERS`; None is left out."""
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]] = PARAMETERS[name]
    query = select(*columns, func.count()).where(Image.job_id == job_id).group_by(*columns)
    if name == "error_code":
        # An image that failed once and was rendered later keeps its last code.
        query = query.where(Image.state == ImageState.DEAD)
    return {
        "x".join(map(str, values)) if len(values) > 1 else values[0]: count
        for *values, count in session.execute(query)
        if values[0] is not None
    }


def stream_extras(session: Session, job_id: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The manifest's own columns of each row of a job, with the number of its images."""
    query = (
        select(Row.extras, func.count(Image.id))
        .join(Image, Image.row_id == Row.id)
        .where(Row.job_id == job_id)
        .group_by(Row.id)
        .execution_options(yield_per=PAGE)
    )
    for row in session.execute(query):
        yield row[0], row[1]


def count_scores(session: Session, job_id: int) -> dict[str, dict[float, int]]:
    """How many of a job's present pictures have each value of each score that is a number."""
    query = (
        select(Score.name, Score.value, func.count())
        .join(Image, (Image.id == Score.image_id) & (Image.generation == Score.generation))
        .where(Image.job_id == job_id, in_state(ImageState.DONE), Score.value.is_not(None))
        .group_by(Score.name, Score.value)
        .order_by(Score.name)
    )
    found: dict[str, dict[float, int]] = {}
    for name, value, images in session.execute(query):
        if value is not None:
            found.setdefault(name, {})[value] = images
    return found


def finished_between(session: Session, job_id: int) -> tuple[datetime, datetime] | None:
    """When the first and the last image of a job became done; None if none did."""
    first, last = session.execute(
        select(func.min(Attempt.at), func.max(Attempt.at))
        .join(Image, Image.id == Attempt.image_id)
        .where(Image.job_id == job_id, Attempt.event == "done")
    ).one()
    return None if first is None else (first, last)


def stream_finished(session: Session, job_id: int) -> Iterator[datetime]:
    """When each image of a job became done, in no particular order."""
    query = (
        select(Attempt.at)
        .join(Image, Image.id == Attempt.image_id)
        .where(Image.job_id == job_id, Attempt.event == "done")
        .execution_options(yield_per=PAGE)
    )
    yield from session.scalars(query)
