"""Tags: words that people and commands give to images."""

from collections.abc import Collection

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from imagemill.db.queries.bulk import among, insert_new
from imagemill.db.tables import Image, Tag

_AT_ONCE = 1000
"""Images of one statement."""


def add_tag(session: Session, image_ids: Collection[int], tag: str) -> int:
    """Give a tag to images; to how many it is new."""
    added = 0
    ordered = sorted(image_ids)  # two that tag the same images wait for each other
    for start in range(0, len(ordered), _AT_ONCE):
        rows = [{"image_id": image, "tag": tag} for image in ordered[start : start + _AT_ONCE]]
        new = insert_new(session, Tag, rows).returning(Tag.image_id)
        added += len(session.scalars(new).all())
    return added


def remove_tag(session: Session, image_ids: Collection[int], tag: str) -> int:
    """Take a tag from images; how many had it."""
    removed = 0
    ordered = sorted(image_ids)
    for start in range(0, len(ordered), _AT_ONCE):
        some = ordered[start : start + _AT_ONCE]
        gone = delete(Tag).where(Tag.tag == tag, among(session, Tag.image_id, some))
        removed += len(session.scalars(gone.returning(Tag.image_id)).all())
    return removed


def tagged_images(session: Session, job_id: int, tag: str) -> set[int]:
    """The ids of a job's images that have a tag."""
    query = select(Tag.image_id).join(Image, Image.id == Tag.image_id)
    return set(session.scalars(query.where(Image.job_id == job_id, Tag.tag == tag)))


def count_tags(session: Session, job_id: int) -> dict[str, int]:
    """How many of a job's images have each tag."""
    rows = session.execute(
        select(Tag.tag, func.count())
        .join(Image, Image.id == Tag.image_id)
        .where(Image.job_id == job_id)
        .group_by(Tag.tag)
        .order_by(Tag.tag)
    )
    return {row[0]: row[1] for row in rows}


def tags_of(session: Session, job_id: int, *, first: int, last: int) -> dict[int, list[str]]:
    """The tags of a job's images, sorted, for images from one id to another."""
    query = (
        select(Tag.image_id, Tag.tag)
        .join(Image, Image.id == Tag.image_id)
        .where(Image.job_id == job_id, Tag.image_id.between(first, last))
    )
    found: dict[int, list[str]] = {}
    for image_id, tag in session.execute(query):
        found.setdefault(image_id, []).append(tag)
    return {image_id: sorted(tags) for image_id, tags in found.items()}
