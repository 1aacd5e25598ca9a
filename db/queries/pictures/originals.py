"""Done images as something to compare with: their specification, environment and hashes."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from imagemill.db.errors import UnknownImage
from imagemill.db.queries.images import spec_of
from imagemill.db.queries.pictures.image_search import MOST_ID
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.db.tables import CompositionRow, Environment, Group, Image, Model, Object

_IDS_A_QUERY = 5_000
"""Fewer than the parameters that Postgres and SQLite accept in one statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An image of a composition; `spec` is None if the database no longer has its request."""

    image_id: int
    spec: ImageSpec | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """An image as it was rendered; `environment` is the whole fingerprint document.

    `certified` says whether the environment's certificate holds; None if there is none. `together`
    is the image's micro-batch by slot, itself included; it is empty if none was recorded.
    """

    image_id: int
    spec: ImageSpec
    environment: dict[str, Any]
    object_key: str
    sha256: str
    pixels_sha256: str
    certified: bool | None = None
    together: tuple[Member, ...] = ()


def find_originals(session: Session, image_ids: Collection[int]) -> list[Original]:
    """These images. Raises `UnknownImage` for one that does not exist or is not done."""
    storable = [image_id for image_id in image_ids if image_id <= MOST_ID]
    found = {
        original.image_id: original
        for original in _originals(session, _done().where(Image.id.in_(storable)))
    }
    for image_id in image_ids:
        if image_id not in found:
            raise UnknownImage(f"image {image_id} is not there, or not done")
    return [found[image_id] for image_id in image_ids]


def sample_originals(session: Session, job_id: int, count: int) -> list[Original]:
    """Up to `count` done images of a job, chosen at random."""
    # Only ids are shuffled. Sorting whole images of a large job would fill the disk.
    chosen = (
        select(Image.id)
        .where(Image.job_id == job_id, Image.object_id.is_not(None))
        .order_by(func.random())
        .limit(count)
    )
    return _originals(session, _done().where(Image.id.in_(chosen)))


Found = Select[Image, Object, CompositionRow | None, Environment, str]


def _done() -> Found:
    return (
        select(Image, Object, CompositionRow, Environment, Model.weights_digest)
        .join(Object, Object.id == Image.object_id)
        .join(Environment, Environment.id == Object.environment_id)
        .join(Group, Group.id == Image.group_id)
        .join(Model, Model.id == Group.model_id)
        .outerjoin(CompositionRow, CompositionRow.id == Object.composition_id)
        .where(Image.state == ImageState.DONE)
    )


def _originals(session: Session, query: Found) -> list[Original]:
    found = session.execute(query).all()
    compositions = [composition for _, _, composition, _, _ in found if composition is not None]
    specs = _specs(session, {image_id for each in compositions for image_id in each.image_ids})
    twins = _twins(session, compositions, specs)
    return [
        Original(
            image_id=image.id,
            spec=spec_of(image, digest),
            environment=environment.document,
            object_key=stored.object_key,
            sha256=stored.sha256,
            pixels_sha256=stored.pixels_sha256,
            certified=None
            if environment.certificate is None
            else bool(environment.certificate["holds"]),
            together=() if composition is None else tuple(_members(composition, specs, twins)),
        )
        for image, stored, composition, environment, digest in found
    ]


def _specs(session: Session, image_ids: Collection[int]) -> dict[int, ImageSpec]:
    """The specifications of these images by id, whatever their state; missing ones are left out."""
    specs: dict[int, ImageSpec] = {}
    ids = sorted(image_ids)
    for start in range(0, len(ids), _IDS_A_QUERY):
        rows = session.execute(
            select(Image, Model.weights_digest)
            .join(Group, Group.id == Image.group_id)
            .join(Model, Model.id == Group.model_id)
            .where(Image.id.in_(ids[start : start + _IDS_A_QUERY]))
        )
        specs |= {image.id: spec_of(image, digest) for image, digest in rows}
    return specs


def _twins(
    session: Session, compositions: Iterable[CompositionRow], specs: dict[int, ImageSpec]
) -> dict[str, ImageSpec]:
    """By request key: specifications of other images, in the place of images that were removed."""
    missing = {
        request_key
        for composition in compositions
        for image_id, request_key in _places(composition)
        if image_id not in specs
    }
    twins: dict[str, ImageSpec] = {}
    keys = sorted(missing)
    for start in range(0, len(keys), _IDS_A_QUERY):
        rows = session.execute(
            select(Image, Model.weights_digest)
            .join(Object, Object.id == Image.object_id)
            .join(Group, Group.id == Image.group_id)
            .join(Model, Model.id == Group.model_id)
            .where(Object.request_key.in_(keys[start : start + _IDS_A_QUERY]))
        )
        twins |= {image.request_key: spec_of(image, digest) for image, digest in rows}
    return twins


def _places(composition: CompositionRow) -> Iterable[tuple[int, str]]:
    return zip(composition.image_ids, composition.request_keys, strict=True)


def _members(
    composition: CompositionRow, specs: dict[int, ImageSpec], twins: dict[str, ImageSpec]
) -> Iterable[Member]:
    for image_id, request_key in _places(composition):
        spec = specs.get(image_id) or twins.get(request_key)
        same = spec is not None and spec.is_named(request_key)
        yield Member(image_id=image_id, spec=spec if same else None)
