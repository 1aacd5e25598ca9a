"""Loading a job: its rows, its images, and the models and groups that these need."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.errors import ManifestError, UsageError
from imagemill.db.queries.bulk import among, insert_many, insert_new
from imagemill.db.queries.images import spec_values
from imagemill.db.queries.jobs.removed import keep_removed_files, next_image_id
from imagemill.db.queries.pictures.objects import find_files
from imagemill.db.queries.tallies import add_images
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Image, Job, Model, Row


@dataclass(frozen=True, kw_only=True, slots=True)
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


def insert_rows(session: Session, job: Job, rows: Sequence[NewRow]) -> list[int]:
    """Insert manifest rows; returns their ids in the same order."""
    if not rows:
        return []
    values = [
        {
            "job_id": job.id,
            "number": row.number,
            "line": row.line,
            "key_base": row.key_base,
            "key_occurrence": row.key_occurrence,
            "verbatim": row.verbatim,
            "extras": dict(row.extras),
            "template": row.template,
            "problem": row.problem,
        }
        for row in rows
    ]
    insert_many(session, Row, values)
    numbers = [row.number for row in rows]
    inserted = Row.number.between(min(numbers), max(numbers))
    found = session.execute(select(Row.number, Row.id).where(Row.job_id == job.id, inserted))
    ids = {number: row_id for number, row_id in found}  # noqa: C416 - dict() would ask for keys()
    return [ids[number] for number in numbers]


def insert_images(
    session: Session, job: Job, images: Sequence[tuple[int, int, ImageSpec]]
) -> Counter[ImageState]:
    """Insert images given as (row id, sample index, spec); how many became ready and how many done.

    An image whose request has an object already is done at once.
    """
    # An object, or a file that waits to be deleted, must not go before these images are there.
    files = find_files(session, [spec for _, _, spec in images], keep=True)
    keep_removed_files(session, [key for key, object_id, _ in files if object_id is None])
    group_keys = [spec.group_key() for _, _, spec in images]
    specs = (spec for _, _, spec in images)
    groups = _group_ids(session, dict(zip(group_keys, specs, strict=True)))
    added: Counter[tuple[int, int, ImageState]] = Counter()
    values: list[dict[str, Any]] = []
    for file, group_key, (row_id, sample_index, spec) in zip(
        files, group_keys, images, strict=True
    ):
        key, object_id, outcome = file
        state = ImageState.READY if object_id is None else ImageState.DONE
        group_id = groups[group_key]
        added[job.id, group_id, state] += 1
        values.append(
            {
                **spec_values(spec),
                "job_id": job.id,
                "row_id": row_id,
                "sample_index": sample_index,
                "group_id": group_id,
                "request_key": key,
                "state": state.value,
                "object_id": object_id,
                "outcome": outcome,
            }
        )
    first = next_image_id(session)
    if first is not None:
        values = [value | {"id": first + place} for place, value in enumerate(values)]
    insert_many(session, Image, values)
    add_images(session, added)
    states: Counter[ImageState] = Counter()
    for (_, _, state), count in added.items():
        states[state] += count
    return states


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
