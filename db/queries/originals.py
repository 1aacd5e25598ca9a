"""Done images as something to compare with: their specification, environment and hashes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db.errors import UnknownImage
from db.queries.claims import spec_of
from db.specs import ImageSpec
from db.states import ImageState
from db.tables import Environment, Group, Image, Model, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """An image as it was rendered; `environment` is the whole fingerprint document."""

    image_id: int
    spec: ImageSpec
    environment: dict[str, Any]
    object_key: str
    sha256: str
    pixels_sha256: str


def find_originals(session: Session, image_ids: Collection[int]) -> list[Original]:
    """These images; an `UnknownImage` names one that is not there or not done."""
    found = {
        original.image_id: original
        for original in _originals(session, _done().where(Image.id.in_(list(image_ids))))
    }
    for image_id in image_ids:
        if image_id not in found:
            raise UnknownImage(f"image {image_id} is not there, or not done")
    return [found[image_id] for image_id in image_ids]


def sample_originals(session: Session, job_id: int, count: int) -> list[Original]:
    """Up to `count` done images of a job, chosen at random."""
    # Only ids are shuffled: whole images of a large job would fill the disk with their sorting.
    chosen = (
        select(Image.id)
        .where(Image.job_id == job_id, Image.object_id.is_not(None))
        .order_by(func.random())
        .limit(count)
    )
    return _originals(session, _done().where(Image.id.in_(chosen)))


def _done() -> Select[tuple[Image, Object, dict[str, Any], str]]:
    return (
        select(Image, Object, Environment.document, Model.weights_digest)
        .join(Object, Object.id == Image.object_id)
        .join(Environment, Environment.id == Object.environment_id)
        .join(Group, Group.id == Image.group_id)
        .join(Model, Model.id == Group.model_id)
        .where(Image.state == ImageState.DONE)
    )


def _originals(
    session: Session, query: Select[tuple[Image, Object, dict[str, Any], str]]
) -> list[Original]:
    return [
        Original(
            image_id=image.id,
            spec=spec_of(image, digest),
            environment=environment,
            object_key=stored.object_key,
            sha256=stored.sha256,
            pixels_sha256=stored.pixels_sha256,
        )
        for image, stored, environment, digest in session.execute(query).tuples()
    ]
