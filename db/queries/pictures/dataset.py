"""The images of jobs with everything that a data set says of them, as a stream. Reads only.

`dataset_images` shows the same columns to those who read SQL.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import among
from imagemill.db.queries.images import in_state
from imagemill.db.queries.pictures.image_reports import own_key
from imagemill.db.queries.pictures.row_lines import whole_line
from imagemill.db.queries.pictures.scores import scores_of
from imagemill.db.queries.pictures.tags import tags_of
from imagemill.db.states import ImageState
from imagemill.db.tables import (
    CompositionRow,
    Environment,
    Group,
    Image,
    Job,
    Model,
    Object,
    Row,
)

PAGE = 2000
"""Images in one page: a query each, whatever the size of the job."""

_COLUMNS = (
    Image.id.label("image_id"),
    Image.job_id.label("job_id"),
    Job.name.label("job_name"),
    Row.number.label("row_number"),
    Row.key_base.label("row_key"),
    Image.sample_index.label("sample_index"),
    Image.state.label("state"),
    Object.outcome.label("outcome"),
    Image.prompt.label("prompt"),
    Image.negative_prompt.label("negative_prompt"),
    Image.seed.label("seed"),
    Image.model.label("model"),
    Model.weights_digest.label("weights_digest"),
    Image.width.label("width"),
    Image.height.label("height"),
    Image.steps.label("steps"),
    Image.guidance_scale.label("guidance_scale"),
    Image.sampler.label("sampler"),
    Image.format.label("format"),
    Image.options.label("options"),
    Image.request_key.label("request_key"),
    Object.object_key.label("object_key"),
    Object.sha256.label("sha256"),
    Object.pixels_sha256.label("pixels_sha256"),
    Object.size_bytes.label("size_bytes"),
    Object.cut.label("prompt_cut"),
    Object.seconds.label("seconds"),
    Object.created_at.label("created_at"),
    Environment.fingerprint.label("environment"),
    CompositionRow.digest.label("composition"),
    Image.error_code.label("error_code"),
    Image.error_message.label("error_message"),
    Row.extras.label("extras"),
    whole_line().label("verbatim"),
)

COLUMN_NAMES = tuple(column.name for column in _COLUMNS)


def stream_images(
    session: Session, job_id: int, *, states: Collection[ImageState]
) -> Iterator[dict[str, Any]]:
    """A job's images in these states by id, a dictionary of `COLUMN_NAMES` each.

    `scores` by name and the list `tags` come on top. `row_key` is the row's own `id`, None where
    its manifest gives none.
    """
    after = 0
    while True:
        page = session.execute(_page(job_id, states, after)).all()
        if not page:
            return
        yield from _judged(session, job_id, page)
        if len(page) < PAGE:
            return
        after = page[-1].image_id


def some_images(
    session: Session, image_ids: Collection[int], *, states: Collection[ImageState]
) -> Iterator[dict[str, Any]]:
    """Those of these images (at most `PAGE`) in these states, by job and id; as `stream_images`."""
    query = _joined().where(among(session, Image.id, image_ids), Image.state.in_(states))
    rows = session.execute(query.order_by(Image.job_id, Image.id)).all()
    for job_id, page in groupby(rows, key=attrgetter("job_id")):
        yield from _judged(session, job_id, list(page))


def _judged(session: Session, job_id: int, page: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Images of a job, sorted by id, with their scores and tags."""
    first, last = page[0].image_id, page[-1].image_id
    scores = scores_of(session, job_id, first=first, last=last)
    tags = tags_of(session, job_id, first=first, last=last)
    for row in page:
        found = dict(zip(COLUMN_NAMES, row, strict=True))
        found["row_key"] = own_key(found["row_key"])
        found["scores"] = scores.get(row.image_id, {})
        found["tags"] = tags.get(row.image_id, [])
        yield found


def count_outcomes(session: Session, job_id: int) -> dict[str, int]:
    """How many of a job's done images have which outcome, and how many are dead by code."""
    done = session.execute(
        select(Image.outcome, func.count())
        .where(Image.job_id == job_id, in_state(ImageState.DONE))
        .group_by(Image.outcome)
    )
    dead = session.execute(
        select(Image.error_code, func.count())
        .where(Image.job_id == job_id, in_state(ImageState.DEAD))
        .group_by(Image.error_code)
    )
    return {str(name): count for name, count in [*done, *dead]}


def _page(job_id: int, states: Collection[ImageState], after: int) -> Select[Any]:
    return (
        _joined()
        .where(Image.job_id == job_id, Image.id > after, Image.state.in_(states))
        .order_by(Image.id)
        .limit(PAGE)
    )


def _joined() -> Select[Any]:
    return (
        select(*_COLUMNS)
        .join(Job, Job.id == Image.job_id)
        .join(Row, Row.id == Image.row_id)
        .join(Group, Group.id == Image.group_id)
        .join(Model, Model.id == Group.model_id)
        .outerjoin(Object, Object.id == Image.object_id)
        .outerjoin(Environment, Environment.id == Object.environment_id)
        .outerjoin(CompositionRow, CompositionRow.id == Object.composition_id)
    )
