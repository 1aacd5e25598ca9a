"""Loading a job: its rows, its images, and the models and groups that these need."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.errors import ManifestError, UsageError
from imagemill.db.queries import copy_text
from imagemill.db.queries.bulk import among, insert_columns, insert_new
from imagemill.db.queries.copy_text import Written
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.queries.jobs.removed_jobs import keep_removed_files, next_image_id
from imagemill.db.queries.pictures.objects import find_files
from imagemill.db.queries.pictures.row_lines import without_prompt
from imagemill.db.queries.tallies import add_images
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Image, Job, Model, Row


# Not frozen: every row needs one, and a frozen one takes six times as long to make.
@dataclass(kw_only=True, slots=True)
class NewRow:
    """A manifest row to insert. A bad one has a `problem`, and neither key nor images.

    `key_occurrence` counts the rows of the job with the same key base that come before.
    """

    number: int
    line: int
    verbatim: str
    extras: Mapping[str, Any]
    key_base: str | None
    key_occurrence: int = 0
    template: str | None = None
    problem: str | None = None
    prompt: str | None = None
    """The prompt of all its images, where that is the row's own: it is stored with them alone."""


_ROW_COLUMNS = tuple(field.name for field in fields(NewRow) if field.name != "prompt")
_ROW_VALUES = attrgetter(*_ROW_COLUMNS)


def lock_loading(session: Session, job_id: int) -> Job:
    """The job, locked against other producers. `UsageError` if it loads no more."""
    locked = select(Job).where(Job.id == job_id).with_for_update(key_share=True)
    job = session.scalars(locked.execution_options(populate_existing=True)).one()
    if job.state == JobState.REJECTED:
        raise ManifestError(f"{job.message}; another process that submitted it says which")
    if job.state != JobState.LOADING:
        raise UsageError(f"job {job_id} is {job.state} by now; nothing more can be loaded into it")
    return job


def count_key_bases(session: Session, job_id: int, bases: Collection[str]) -> Counter[str]:
    """How many rows of the job have each of these key bases already."""
    rows = session.execute(
        select(Row.key_base, func.count())
        .where(Row.job_id == job_id, among(session, Row.key_base, bases))
        .group_by(Row.key_base)
    )
    return Counter({base: count for base, count in rows if base is not None})


def write_rows(rows: Sequence[NewRow], dialect: Any) -> Written:
    """Write manifest rows for PostgreSQL before they are inserted. There must be some."""
    table: Any = Row.__table__
    return copy_text.write_rows(table, _row_columns(rows), shared={}, dialect=dialect).kept


def _row_columns(rows: Sequence[NewRow]) -> dict[str, Sequence[Any]]:
    values = zip(*map(_ROW_VALUES, rows), strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(_ROW_COLUMNS, values, strict=True))
    lines = [without_prompt(row.verbatim, row.prompt) for row in rows]
    columns["verbatim"], columns["prompt_at"] = zip(*lines, strict=True)
    return columns


def insert_rows(
    session: Session, job: Job, rows: Sequence[NewRow], *, written: Written | None = None
) -> list[int]:
    """Insert manifest rows; returns their ids in the same order.

    `written` are the same rows from `write_rows`.
    """
    if not rows:
        return []
    columns = _row_columns(rows) if written is None else {}
    insert_columns(session, Row, columns, shared={"job_id": job.id}, written=written)
    numbers = [row.number for row in rows]
    inserted = (Row.job_id == job.id, Row.number.between(min(numbers), max(numbers)))
    ends = select(func.min(Row.id), func.max(Row.id), func.count()).where(*inserted)
    first, last, count = session.execute(ends).one()
    if count == len(rows) == last - first + 1:
        # Ids are given in the order of the rows, and nobody else got one in between.
        return list(range(first, last + 1))
    found = session.execute(select(Row.number, Row.id).where(*inserted))
    ids = {number: row_id for number, row_id in found}  # noqa: C416 - dict() would ask for keys()
    return [ids[number] for number in numbers]


def insert_images(session: Session, job: Job, images: NewImages, *, row_ids: Sequence[int]) -> None:
    """Insert images of the rows with these ids, one id for each image.

    An image whose request has an object already is done at once.
    """
    if not images:
        return
    # An object, or a file that waits to be deleted, must not go before these images are there.
    files = find_files(session, images.keys, keep=True)
    keys = [newest for newest, *_ in images.keys]
    keep_removed_files(session, [key for place, key in enumerate(keys) if place not in files])
    groups = _group_ids(session, {kind.group_key: kind.example for kind in images.kinds})
    columns: dict[str, Any] = {
        "row_id": row_ids,
        "group_id": [groups[key] for key in images.group_keys],
        "state": [ImageState.READY.value] * len(images),
        "object_id": [None] * len(images),
        "outcome": [None] * len(images),
    }
    for place, file in files.items():
        keys[place] = file.request_key
        columns["state"][place] = ImageState.DONE.value
        columns["object_id"][place] = file.object_id
        columns["outcome"][place] = file.outcome
    places = Counter(zip(columns["group_id"], columns["state"], strict=True))
    first = next_image_id(session)
    if first is not None:
        columns["id"] = range(first, first + len(images))
    shared: dict[str, Any] = {"job_id": job.id}
    text = images.text
    if text is None or any(file.request_key != images.keys[at][0] for at, file in files.items()):
        known, alike = images.columns()
        columns, shared, text = known | columns | {"request_key": keys}, alike | shared, None
    insert_columns(session, Image, columns, shared=shared, written=text)
    add_images(session, {(job.id, group, ImageState(s)): n for (group, s), n in places.items()})


def register_model(
    session: Session, *, name: str, weights_digest: str, source: str, document: dict[str, Any]
) -> int:
    """The id of a model. A model is recorded once for each weights digest."""
    known = select(Model.id).where(Model.weights_digest == weights_digest)
    found = session.scalar(known)
    if found is not None:
        return found
    values = {
        "name": name,
        "weights_digest": weights_digest,
        "source": source,
        "document": document,
    }
    session.execute(insert_new(session, Model, values))
    return session.scalars(known).one()


def _group_ids(session: Session, wanted: Mapping[str, ImageSpec]) -> dict[str, int]:
    """The ids of groups by key; `wanted` has one image's specification for each.

    New groups are recorded.
    """
    rows = session.execute(select(Group.key, Group.id).where(Group.key.in_(list(wanted))))
    found = {row.key: row.id for row in rows}
    for key, spec in sorted(wanted.items()):
        if key in found:
            continue
        model_id = session.scalars(
            select(Model.id).where(Model.weights_digest == spec.weights_digest)
        ).one()
        values = {"key": key, "model_id": model_id, "document": spec.group()}
        session.execute(insert_new(session, Group, values))
        found[key] = session.scalars(select(Group.id).where(Group.key == key)).one()
    return found
