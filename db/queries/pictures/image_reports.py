"""What people ask about images: lists with filters, and everything about one. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from imagemill.db.compositions import Composition
from imagemill.db.documents import JSON
from imagemill.db.errors import UnknownImage
from imagemill.db.queries.images import (
    OWN_KEY,
    flawed,
    in_state,
    spec_of,
    weights_digest_of,
)
from imagemill.db.queries.pictures.row_lines import whole_line
from imagemill.db.queries.pictures.scores import scores_of
from imagemill.db.queries.pictures.tags import tags_of
from imagemill.db.queries.store_address import object_uri, store_address
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables import (
    Attempt,
    CompositionRow,
    Environment,
    Image,
    Job,
    Object,
    Row,
    Shift,
    Worker,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Selects images: every condition that is not None must hold. `key` is a row's own `id`."""

    job_id: int | None = None
    state: ImageState | None = None
    outcome: Outcome | None = None
    model: str | None = None
    row: int | None = None
    code: str | None = None
    key: str | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReport:
    """One image in a list; `outcome`, `object_key` and `uri` once it is done.

    `key` is the row's own `id`, where the manifest gives it one; `extras` are its other columns.
    `options` are parameters that are not at their default and have no field of their own.
    """

    id: int = field(metadata={JSON: "image_id"})
    job_id: int
    row: int = field(metadata={JSON: "row_number"})
    key: str | None = field(metadata={JSON: "row_key"})
    sample: int = field(metadata={JSON: "sample_index"})
    state: str
    outcome: str | None
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    format: str
    options: dict[str, Any]
    object_key: str | None
    uri: str | None
    sha256: str | None
    error_code: str | None
    error_message: str | None
    extras: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One entry of an image's history."""

    at: datetime
    generation: int
    event: str
    solo: bool
    code: str | None
    message: str | None
    shift_id: int | None
    worker: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectReport:
    """An image's file: where it is, its hashes, and what rendered it (in `seconds`).

    `composition` is the micro-batch that it was rendered in, where that was recorded.
    """

    object_key: str
    uri: str
    sha256: str
    pixels_sha256: str
    size_bytes: int
    outcome: str
    prompt_cut: str | None
    seconds: float
    created_at: datetime
    environment: str
    environment_document: dict[str, Any]
    certificate: dict[str, Any] | None
    composition: Composition | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDetail:
    """Everything about one image. `specification` is what decides its pixels and file."""

    id: int = field(metadata={JSON: "image_id"})
    job_id: int
    job_name: str
    row: int = field(metadata={JSON: "row_number"})
    key: str | None = field(metadata={JSON: "row_key"})
    line: int
    sample: int = field(metadata={JSON: "sample_index"})
    state: str
    generation: int
    failures: int
    error_code: str | None
    error_message: str | None
    request_key: str
    specification: dict[str, Any]
    template: str | None
    extras: dict[str, Any]
    verbatim: str
    file: ObjectReport | None
    scores: dict[str, float | str]
    tags: list[str]
    history: tuple[Event, ...] = field(default=())


def list_images(
    session: Session,
    which: ImageFilter,
    *,
    limit: int,
    after: int | None = None,
    also: Sequence[ColumnElement[bool]] = (),
) -> list[ImageReport]:
    """Images in the order of their ids, from the one after `after`.

    `also` are further conditions on `Image` and `Row`.

    A page begins behind an id instead of skipping rows. So each page costs the same, however far
    in it is, and images that change meanwhile move no page's limits.
    """
    query = (
        select(Image, Row.number, Row.key_base, Row.extras, Object)
        .join(Row, Row.id == Image.row_id)
        .outerjoin(Object, Object.id == Image.object_id)
        .where(*_conditions(which), *also)
        .order_by(Image.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Image.id > after)
    address = store_address(session)
    return [_report(address, *found) for found in session.execute(query)]


def find_image(session: Session, image_id: int) -> ImageDetail:
    """One image with its row, file, environment and history; `UnknownImage` if there is none."""
    found = session.execute(
        select(Image, Row, Job.name, whole_line())
        .join(Row, Row.id == Image.row_id)
        .join(Job, Job.id == Image.job_id)
        .where(Image.id == image_id)
    ).first()
    if found is None:
        raise UnknownImage(f"no image {image_id}; `imagemill images` lists them")
    image, row, job_name, line = found
    only = {"first": image_id, "last": image_id}
    return ImageDetail(
        id=image.id,
        job_id=image.job_id,
        job_name=job_name,
        row=row.number,
        key=own_key(row.key_base),
        line=row.line,
        sample=image.sample_index,
        state=image.state,
        generation=image.generation,
        failures=image.failures,
        error_code=image.error_code,
        error_message=image.error_message,
        request_key=image.request_key,
        specification=spec_of(image, weights_digest_of(session, image.group_id)).document(),
        template=row.template,
        extras=row.extras,
        verbatim=line,
        file=None if image.object_id is None else _stored_file(session, image.object_id),
        scores=scores_of(session, image.job_id, **only).get(image_id, {}),
        tags=tags_of(session, image.job_id, **only).get(image_id, []),
        history=_history(session, image_id),
    )


def _conditions(which: ImageFilter) -> list[ColumnElement[bool]]:
    wanted: Mapping[InstrumentedAttribute[Any], object] = {
        Image.job_id: which.job_id,
        Image.model: which.model,
        Image.error_code: which.code,
        Image.outcome: which.outcome,
        Row.number: which.row,
        Row.key_base: None if which.key is None else f"{OWN_KEY}{which.key}",
        Image.sampler: which.sampler,
        Image.guidance_scale: which.guidance_scale,
        Image.seed: which.seed,
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    # The same conditions as those of the partial indexes, so that the planner can use them.
    if which.state is not None:
        conditions.append(in_state(which.state))
    if which.outcome is not None and which.outcome is not Outcome.OK:
        conditions.append(flawed())
    if (which.row is not None or which.key is not None) and which.job_id is not None:
        # The job is named for both tables, so that the unique index on rows finds the one row.
        conditions.append(Row.job_id == which.job_id)
    return conditions


def own_key(key_base: str | None) -> str | None:
    """The `id` that a row has in its manifest."""
    if key_base is None or not key_base.startswith(OWN_KEY):
        return None
    return key_base.removeprefix(OWN_KEY)


def _report(
    address: str | None,
    image: Image,
    row: int,
    key_base: str | None,
    extras: dict[str, Any],
    stored: Object | None,
) -> ImageReport:
    return ImageReport(
        id=image.id,
        job_id=image.job_id,
        row=row,
        key=own_key(key_base),
        sample=image.sample_index,
        state=image.state,
        outcome=image.outcome,
        model=image.model,
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        seed=image.seed,
        width=image.width,
        height=image.height,
        steps=image.steps,
        guidance_scale=image.guidance_scale,
        sampler=image.sampler,
        format=image.format,
        options=image.options,
        object_key=None if stored is None else stored.object_key,
        uri=None if stored is None else object_uri(address, stored),
        sha256=None if stored is None else stored.sha256,
        error_code=image.error_code,
        error_message=image.error_message,
        extras=extras,
    )


def _stored_file(session: Session, object_id: int) -> ObjectReport:
    stored, environment, batch = session.execute(
        select(Object, Environment, CompositionRow)
        .join(Environment, Environment.id == Object.environment_id)
        .outerjoin(CompositionRow, CompositionRow.id == Object.composition_id)
        .where(Object.id == object_id)
    ).one()
    composition = None
    if batch is not None:
        composition = Composition(
            slots=batch.slots,
            request_keys=tuple(batch.request_keys),
            image_ids=tuple(batch.image_ids),
        )
    return ObjectReport(
        object_key=stored.object_key,
        uri=object_uri(store_address(session), stored),
        sha256=stored.sha256,
        pixels_sha256=stored.pixels_sha256,
        size_bytes=stored.size_bytes,
        outcome=stored.outcome,
        prompt_cut=stored.cut,
        seconds=stored.seconds,
        created_at=stored.created_at,
        environment=environment.fingerprint,
        environment_document=environment.document,
        certificate=environment.certificate,
        composition=composition,
    )


def _history(session: Session, image_id: int) -> tuple[Event, ...]:
    rows = session.execute(
        select(Attempt, Worker.name)
        .outerjoin(Shift, Shift.id == Attempt.shift_id)
        .outerjoin(Worker, Worker.id == Shift.worker_id)
        .where(Attempt.image_id == image_id)
        .order_by(Attempt.id)
    )
    return tuple(
        Event(
            at=attempt.at,
            generation=attempt.generation,
            event=attempt.event,
            solo=attempt.solo,
            code=attempt.code,
            message=attempt.message,
            shift_id=attempt.shift_id,
            worker=worker,
        )
        for attempt, worker in rows
    )
