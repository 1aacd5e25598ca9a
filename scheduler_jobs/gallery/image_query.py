"""What a page asks for: images of a job with words and values, some at a time.

Words and plain columns are found by the database. Values of the manifest's own columns are
compared here: SQLite and Postgres compare JSON in different ways. So one answer looks through a
limited number of images, and says where the next one goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.queries.pictures.image_search import MOST_ID, Rank, ranked, with_words
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables import Image
from imagemill.db.utf8 import is_storable
from imagemill.scheduler_jobs.pages.entries import entries_of

PAGE = 200
"""Images in one answer."""

MOST_LOOKED_AT = 5_000
"""Images that are looked through for one answer."""

MOST_WORDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueCondition:
    """A bar of a histogram: the images with this value of a column, or with one in [low, high)."""

    name: str
    value: Any = None
    low: float | None = None
    high: float | None = None

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether it is true of an image, as `entries_of` gives it."""
        value = value_of(entry, self.name)
        if self.low is None or self.high is None:
            if isinstance(value, list):
                return self.value in value
            # JavaScript writes 7.0 as 7, and true is not 1.
            alike = isinstance(value, bool) == isinstance(self.value, bool)
            return alike and bool(value == self.value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value < self.high


Cursor = int | Rank
"""Where an answer goes on: after an image, or after a place in the order of a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageQuery:
    """Images of a job in which all of these words are, and of which all conditions are true.

    They come by their ids, or by a score: then only those that have it.
    """

    job_id: int
    words: Sequence[str] = ()
    conditions: Sequence[ValueCondition] = ()
    score: str | None = None
    descending: bool = True

    def filter(self) -> ImageFilter:
        """The conditions that the database can check; the others are left out."""
        values = {each.name: each.value for each in self.conditions if isinstance(each.value, str)}
        state, outcome = values.get("state"), values.get("outcome")
        return ImageFilter(
            job_id=self.job_id,
            state=ImageState(state) if state in set(ImageState) else None,
            outcome=Outcome(outcome) if outcome in set(Outcome) else None,
            model=values.get("model"),
            sampler=values.get("sampler"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Images, the same as JSON, and where the next answer goes on; None at the end."""

    images: list[ImageReport]
    entries: list[dict[str, Any]]
    after: Cursor | None


class _Page(NamedTuple):
    """Images with their cursors, how many were looked at for them, and the last one's cursor."""

    images: Sequence[tuple[ImageReport, Cursor]]
    looked_at: int
    after: Cursor


def value_of(entry: Mapping[str, Any], name: str) -> Any:
    """The value of a histogram's column: `size`, `steps`, `extras.mood`."""
    if name == "size":
        return f"{entry['width']}x{entry['height']}"
    if name == "error_code" and entry["state"] != ImageState.DEAD:
        return None
    kind, _, own = name.partition(".")
    if not own:
        return entry.get(name)
    values = entry.get(kind)
    return values.get(own) if isinstance(values, dict) else None


def find_images(session: Session, query: ImageQuery, *, after: Cursor | None) -> Found:
    """The next images of a query, at most `PAGE` of them."""
    found = Found(images=[], entries=[], after=None)
    looked_at = 0
    pages = _by_id if query.score is None else _by_score
    for page in pages(session, query, after):
        entries = entries_of(session, [image for image, _ in page.images])
        for (image, cursor), entry in zip(page.images, entries, strict=True):
            if all(each.holds(entry) for each in query.conditions):
                found.images.append(image)
                found.entries.append(entry)
                if len(found.images) == PAGE:
                    return replace(found, after=cursor)
        looked_at += page.looked_at
        if looked_at >= MOST_LOOKED_AT:
            return replace(found, after=page.after)
    return found


def _by_id(session: Session, query: ImageQuery, after: Cursor | None) -> Iterator[_Page]:
    last = after if isinstance(after, int) else None
    words = with_words(query.words[:MOST_WORDS])
    while images := list_images(session, query.filter(), limit=PAGE, after=last, also=words):
        last = images[-1].id
        yield _Page([(image, image.id) for image in images], len(images), last)


def _by_score(session: Session, query: ImageQuery, after: Cursor | None) -> Iterator[_Page]:
    last = after if isinstance(after, Rank) else None
    score, words = query.score or "", with_words(query.words[:MOST_WORDS])
    find = partial(ranked, session, query.job_id, score, descending=query.descending, limit=PAGE)
    while ranks := find(after=last):
        last = ranks[-1]
        also = [*words, Image.id.in_([rank.image_id for rank in ranks])]
        images = {i.id: i for i in list_images(session, query.filter(), limit=PAGE, also=also)}
        ordered = [(images[rank.image_id], rank) for rank in ranks if rank.image_id in images]
        yield _Page(ordered, len(ranks), last)


def read_cursor(text: str | None, *, score: str | None) -> Cursor | None:
    """A cursor as `cursor_text` wrote it. Raises `ValueError` for any other text."""
    if text is None:
        return None
    value, _, image = text.rpartition(":")
    if not image.isdecimal() or int(image) > MOST_ID or bool(value) != (score is not None):
        raise ValueError("this is no place to go on")
    return Rank(float(value), int(image)) if value else int(image)


def cursor_text(cursor: Cursor | None) -> str | None:
    """A cursor as it stands in an address."""
    if isinstance(cursor, Rank):
        return f"{cursor.value!r}:{cursor.image_id}"
    return None if cursor is None else str(cursor)


def read_conditions(given: Any) -> list[ValueCondition]:
    """Conditions from a page's JSON. Raises `ValueError` for any other value."""
    if not isinstance(given, list) or len(given) > 100:
        raise ValueError("conditions are a list")
    return [_condition(each) for each in given]


def _condition(given: Any) -> ValueCondition:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError("a condition has a name")  # noqa: TRY004 - a page's mistake, not ours
    low, high = given.get("low"), given.get("high")
    for limit in (low, high):
        if limit is not None and not isinstance(limit, int | float):
            raise ValueError("the limits of a range are numbers")
    value = given.get("value")
    if isinstance(value, str) and not is_storable(value):
        raise ValueError("a value has no NUL character and no half of a surrogate pair")
    return ValueCondition(name=given["name"], value=value, low=low, high=high)
