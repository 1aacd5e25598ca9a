"""Finding images by words, and those of another job that answer to them. Reads only."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, asc, desc, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from imagemill.db.queries.images import in_state
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Row, Score

MOST_ID = 2**63 - 1


def with_words(words: Sequence[str]) -> list[ColumnElement[bool]]:
    """Conditions that every word is in an image's prompts or its row's id; `#12` is image 12."""
    return [_with_word(word) for word in words]


def images_by_id(session: Session, ids: Collection[int]) -> dict[int, ImageReport]:
    """These images by their ids, as far as they exist."""
    if not ids:
        return {}
    found = list_images(session, ImageFilter(), limit=len(ids), also=[Image.id.in_(list(ids))])
    return {image.id: image for image in found}


class Rank(NamedTuple):
    """An image's place in the order of a score; equal values go by the image's id, the same way."""

    value: float
    image_id: int


def ranked(
    session: Session,
    job_id: int,
    score: str,
    *,
    descending: bool,
    limit: int,
    after: Rank | None = None,
) -> list[Rank]:
    """A job's present pictures that have this score as a number, in its order, from after one.

    Value and id go the same way, so that one index has this order forwards and backwards, and a
    page costs what is on it.
    """
    value = Score.value
    way = desc if descending else asc
    query = (
        select(value, Score.image_id)
        .join(Image, (Image.id == Score.image_id) & (Image.generation == Score.generation))
        .where(Image.job_id == job_id, in_state(ImageState.DONE), Score.name == score)
        .where(value.is_not(None))
        .order_by(way(value), way(Score.image_id))
        .limit(limit)
    )
    if after is not None:
        here, there = tuple_(value, Score.image_id), tuple_(*after)
        query = query.where(here < there if descending else here > there)
    return [Rank(float(found or 0.0), image_id) for found, image_id in session.execute(query)]


def partners(session: Session, ids: Collection[int], job_id: int) -> dict[int, ImageReport]:
    """For images of one job, those of another with the same row key and sample, by the first id.

    An image without a partner is left out.
    """
    row, other_row, other = aliased(Row), aliased(Row), aliased(Image)
    pairs = session.execute(
        select(Image.id, other.id)
        .join(row, row.id == Image.row_id)
        .join(
            other_row,
            (other_row.key_base == row.key_base)
            & (other_row.key_occurrence == row.key_occurrence)
            & (other_row.job_id == job_id),
        )
        .join(other, (other.row_id == other_row.id) & (other.sample_index == Image.sample_index))
        .where(Image.id.in_(list(ids)))
    ).all()
    found = images_by_id(session, {theirs for _, theirs in pairs})
    return {own: found[theirs] for own, theirs in pairs}


def _with_word(word: str) -> ColumnElement[bool]:
    number = word.removeprefix("#")
    if word.startswith("#") and number.isdecimal() and int(number) <= MOST_ID:
        return Image.id == int(number)
    return or_(
        Image.prompt.icontains(word, autoescape=True),
        Image.negative_prompt.icontains(word, autoescape=True),
        Row.key_base.icontains(word, autoescape=True),
    )
