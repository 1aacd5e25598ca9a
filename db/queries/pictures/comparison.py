"""Two jobs side by side: their images, matched by row key and sample. Reads only, page by page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Select, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from imagemill.db.queries.bulk import among
from imagemill.db.queries.pictures.image_reports import own_key
from imagemill.db.tables import Group, Image, Model, Object, Row

Query: TypeAlias = "Select[*tuple[Any, ...]]"

PAGE = 1000
"""Images of the first job in one page: two queries each, whatever the size of the jobs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One image of a job in a comparison. The hashes and `object_key` are None until it is done."""

    image_id: int
    row_number: int
    row_key: str | None
    place: tuple[str, int, int]
    """What it is matched by: the row's key base, its occurrence, and the sample."""
    state: str
    parameters: dict[str, Any]
    """Prompt, seed, size and the others by name; options beside them."""
    object_key: str | None
    sha256: str | None
    pixels_sha256: str | None


def matched_images(
    session: Session, job_a: int, job_b: int
) -> Iterator[tuple[Compared, Compared | None]]:
    """Each image of one job in the order of its ids, with its image of the other job, if any."""
    after = 0
    while True:
        page = _images(session, _query(job_a).where(Image.id > after).limit(PAGE))
        others = _partners(session, job_b, page)
        yield from ((image, others.get(image.place)) for image in page)
        if len(page) < PAGE:
            return
        after = page[-1].image_id


def count_unmatched(session: Session, job_b: int, job_a: int) -> int:
    """How many images of `job_b` have no partner in `job_a`."""
    images = _unmatched(_query(job_b), job_a).with_only_columns(func.count()).order_by(None)
    return session.scalar(images) or 0


def unmatched_images(session: Session, job_b: int, job_a: int, *, limit: int) -> list[Compared]:
    """The first images of `job_b` without a partner in `job_a`."""
    return _images(session, _unmatched(_query(job_b), job_a).limit(limit))


def _query(job_id: int) -> Query:
    return (
        select(Image, Row.number, Row.key_base, Row.key_occurrence, Model.weights_digest, Object)
        .join(Row, Row.id == Image.row_id)
        .join(Group, Group.id == Image.group_id)
        .join(Model, Model.id == Group.model_id)
        .outerjoin(Object, Object.id == Image.object_id)
        .where(Image.job_id == job_id)
        .order_by(Image.id)
    )


def _unmatched(images: Query, job_id: int) -> Query:
    row, image = aliased(Row), aliased(Image)
    same = and_(
        row.job_id == job_id,
        row.key_base == Row.key_base,
        row.key_occurrence == Row.key_occurrence,
        image.row_id == row.id,
        image.sample_index == Image.sample_index,
    )
    return images.where(~exists().where(same))


def _partners(
    session: Session, job_id: int, page: Sequence[Compared]
) -> dict[tuple[str, int, int], Compared]:
    if not page:
        return {}
    samples = [image.place[2] for image in page]
    partners = _query(job_id).where(
        Row.job_id == job_id,
        among(session, Row.key_base, {image.place[0] for image in page}),
        Image.sample_index.between(min(samples), max(samples)),
    )
    return {image.place: image for image in _images(session, partners)}


def _images(session: Session, query: Query) -> list[Compared]:
    return [
        Compared(
            image_id=image.id,
            row_number=number,
            row_key=own_key(key_base),
            place=(key_base or "", occurrence, image.sample_index),
            state=image.state,
            parameters=_parameters(image, digest),
            object_key=None if stored is None else stored.object_key,
            sha256=None if stored is None else stored.sha256,
            pixels_sha256=None if stored is None else stored.pixels_sha256,
        )
        for image, number, key_base, occurrence, digest, stored in session.execute(query)
    ]


def _parameters(image: Image, weights_digest: str) -> dict[str, Any]:
    return {
        "prompt": image.prompt,
        "negative_prompt": image.negative_prompt,
        "seed": image.seed,
        "model": image.model,
        "weights_digest": weights_digest,
        "width": image.width,
        "height": image.height,
        "steps": image.steps,
        "guidance_scale": image.guidance_scale,
        "sampler": image.sampler,
        "format": image.format,
        **image.options,
    }
