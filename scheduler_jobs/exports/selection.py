"""Which images an export takes, and in which order: the same ones in every pass over a snapshot."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby, islice
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.dataset import COLUMN_NAMES, PAGE, some_images, stream_images
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.queries.pictures.scores import score_names
from imagemill.db.scorers import known_scorers
from imagemill.db.states import ImageState, Outcome
from imagemill.scheduler_jobs.exports.where import OWN_COLUMNS, TAG, Condition

TAGS = "tags"
"""The column with all tags of an image, where there are any."""

_EXAMPLE_CHARACTERS = 40

FRACTION_BITS = 52
"""Of a prompt's hash that place it in a split: what a double holds exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportImage:
    """One image of an export: `values` by `COLUMN_NAMES`, and its other columns.

    `extras` are its scores, its `tags`, and the other columns of its row; one of those that has a
    score's name, or is called `tags`, got `extra_` before it. `hidden` are those of its row under
    their own names that a condition finds only as `extras.NAME`. `state` is done, or dead where
    the format keeps what could not be rendered.
    """

    values: Mapping[str, Any]
    extras: Mapping[str, Any]
    tags: Sequence[str] = ()
    hidden: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def done(self) -> bool:
        """Whether there is a picture."""
        return bool(self.values["state"] == ImageState.DONE)

    @property
    def named(self) -> dict[str, Any]:
        """Every value by its name; a row's own column never hides one of ours.

        `tag` has all of the image's tags: a comparison with it holds if it does for one of them.
        """
        hidden = {f"{OWN_COLUMNS}.{name}": value for name, value in self.hidden.items()}
        return {**hidden, **self.extras, **self.values, TAG: tuple(self.tags)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A part of a data set: `name` gets this fraction of the prompts."""

    name: str
    fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is taken: jobs in this order, their images by id.

    `best` images of each row, by the column `by`, the larger the better; images without that
    value come last, equal ones by their sample's number. A split takes all samples of a prompt.
    """

    jobs: Sequence[int]
    outcomes: Collection[Outcome] = (Outcome.OK,)
    where: str | None = None
    best: int | None = None
    by: str | None = None
    splits: Sequence[Split] = field(default=())

    def document(self) -> dict[str, Any]:
        """The selection as JSON, for records of the export."""
        return {
            "jobs": list(self.jobs),
            "outcomes": sorted(self.outcomes),
            "where": self.where,
            "best": self.best,
            "by": self.by,
            "split": {split.name: split.fraction for split in self.splits},
        }


class SeenNames:
    """The names that the images have: a name that none of them has is a mistake.

    Images that a condition leaves out count too: `mood is null` is no mistake. Images are ranked
    `by` a column, if it is not None: then at least one of them must have a number there.
    """

    def __init__(self, by: str | None = None) -> None:
        self._names = set(known_names())
        self._any = False
        self._by = by
        self._numbers = False
        self._example: object = None

    def add(self, image: ExportImage) -> ExportImage:
        """Note an image's names, and pass it on."""
        self._any = True
        self._names.update(image.extras)
        if self._by is not None and not self._numbers:
            self._numbers = number_of(image, self._by) is not None
            self._example = image.named.get(self._by) if self._example is None else self._example
        return image

    def check_by(self, option: str) -> None:
        """A `UsageError` if images are ranked by what none has, or none has as a number."""
        if self._by is None or not self._any:
            return
        self.check(option, (self._by,))
        if self._numbers:
            return
        values = "no values"
        if self._example is not None:
            values = f"no numbers but texts, such as {str(self._example)[:_EXAMPLE_CHARACTERS]!r}"
        raise UsageError(f"{option}: {self._by!r} has {values}; name a score or a number")

    def check(self, option: str, names: Collection[str], *, operands: Collection[str] = ()) -> None:
        """A `UsageError` for a name that no image has, if there was an image at all.

        `operands` are names that stand where a value is usual.
        """
        for name in sorted(set(names) - self._names) if self._any else ():
            if name in known_scorers():
                hint = f"`imagemill score JOB --with {name}` gives it"
            elif name in operands:
                hint = f"if it is a text, write it in single quotes: '{name}'"
            else:
                close = get_close_matches(name, self._names, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                hint += f"there are {', '.join(sorted(self._names))}"
            raise UsageError(f"{option}: nothing is called {name!r}; {hint}")

    def check_condition(self, condition: Condition) -> None:
        """A `UsageError` for a name of a condition that no image has."""
        self.check("--where", condition.columns, operands=condition.operands)


def select_images(
    session: Session,
    selection: Selection,
    *,
    failures: bool = False,
    seen: SeenNames | None = None,
) -> Iterator[ExportImage]:
    """The images that are taken, as a stream; dead ones too if the format keeps `failures`.

    At the end, a `UsageError` for a name of the condition that no image has. `seen` is for those
    who ask for other names too.
    """
    condition = None if selection.where is None else Condition(selection.where)
    states = [ImageState.DONE, ImageState.DEAD] if failures else [ImageState.DONE]
    seen = seen or SeenNames()
    for job_id in selection.jobs:
        taken_names = {TAGS, *score_names(session, job_id)}
        images = (
            seen.add(_image(found, taken_names))
            for found in stream_images(session, job_id, states=states)
        )
        taken = (image for image in images if _is_taken(image, selection, condition))
        yield from taken if selection.best is None else _best(taken, selection)
    if condition is not None:
        seen.check_condition(condition)


def select_done(
    session: Session, image_ids: Sequence[int], selection: Selection
) -> Iterator[ExportImage]:
    """Those of these images (a page) that are done and taken, by job and id.

    Jobs, best ones and splits of the selection are left out of account.
    """
    condition = None if selection.where is None else Condition(selection.where)
    for image in _images(session, image_ids, states=[ImageState.DONE]):
        if _is_taken(image, selection, condition):
            yield image


def list_where(
    session: Session,
    filters: Sequence[ImageFilter],
    where: str | None,
    *,
    limit: int,
    after: int | None = None,
) -> list[ImageReport]:
    """The first images, by id, that one of the filters takes and the condition holds for.

    Images of any state have values. A `UsageError` if the condition can't be read, or asks for
    what none of the images has.
    """
    listed: list[ImageReport] = []
    condition, seen, whole = None if where is None else Condition(where), SeenNames(), True
    for which in filters:
        if condition is None:
            listed += list_images(session, which, limit=limit, after=after)
            continue
        found = list(islice(_held(session, which, condition, after=after, seen=seen), limit))
        listed, whole = listed + found, whole and len(found) < limit
    if condition is not None and whole:
        seen.check_condition(condition)
    return sorted(listed, key=lambda image: image.id)[:limit]


def _held(
    session: Session,
    which: ImageFilter,
    condition: Condition,
    *,
    after: int | None,
    seen: SeenNames,
) -> Iterator[ImageReport]:
    """The images that a filter takes and a condition holds for, by id."""
    while page := list_images(session, which, limit=PAGE, after=after):
        after = page[-1].id
        images = _images(session, [image.id for image in page], states=list(ImageState))
        held = {i["image_id"] for i in map(seen.add, images) if condition.holds(i.named)}
        yield from (image for image in page if image.id in held)


def _images(
    session: Session, image_ids: Sequence[int], *, states: Collection[ImageState]
) -> Iterator[ExportImage]:
    """Images by their ids (a page), by job and id, as far as they are in these states."""
    names: dict[int, set[str]] = {}
    for found in some_images(session, image_ids, states=states):
        job_id = found["job_id"]
        if job_id not in names:
            names[job_id] = {TAGS, *score_names(session, job_id)}
        yield _image(found, names[job_id])


def split_of(image: ExportImage, splits: Sequence[Split]) -> str:
    """The split of an image: its prompt's hash decides, so more images later move none."""
    digest = hashlib.sha256(image["prompt"].encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") >> (64 - FRACTION_BITS)
    upper = 0.0
    for split in splits:
        upper += split.fraction
        if place < upper * (1 << FRACTION_BITS):
            return split.name
    return splits[-1].name


def read_splits(text: str) -> tuple[Split, ...]:
    """`train=0.9,test=0.1` as splits; their fractions must make 1."""
    splits = []
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            split = Split(name=name.strip(), fraction=float(number))
        except ValueError:
            raise _bad_split(text) from None
        if not split.name.isidentifier() or not 0 < split.fraction <= 1:
            raise _bad_split(text)
        splits.append(split)
    names = {split.name for split in splits}
    if len(names) < len(splits) or abs(sum(split.fraction for split in splits) - 1) > 1e-9:
        raise _bad_split(text)
    return tuple(splits)


def known_names() -> frozenset[str]:
    """The names that every image has; its row's other columns come on top."""
    return frozenset(COLUMN_NAMES) - {"extras"} | {TAG, TAGS}


def number_of(image: ExportImage, column: str) -> float | None:
    """An image's value in a column as a number; None if it has none there."""
    value = image.named.get(column)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if number is None or math.isnan(number) else number


def _image(found: dict[str, Any], taken_names: Collection[str]) -> ExportImage:
    """An image from what was read of it; `taken_names` are those of the job's scores and tags."""
    extras, scores, tags = found.pop("extras"), found.pop("scores"), found.pop("tags")
    own = extras if isinstance(extras, dict) else {}
    renamed = {f"extra_{n}" if n in taken_names else n: value for n, value in own.items()}
    return ExportImage(
        values=found,
        extras={**renamed, **scores, **({TAGS: tags} if tags else {})},
        tags=tags,
        hidden={n: own[n] for n in own if n in taken_names or n == TAG or n in found},
    )


def _is_taken(image: ExportImage, selection: Selection, condition: Condition | None) -> bool:
    if image.done and image["outcome"] not in selection.outcomes:
        return False
    return condition is None or condition.holds(image.named)


def _best(images: Iterator[ExportImage], selection: Selection) -> Iterator[ExportImage]:
    """The best images of each row, in the order in which they came."""
    for _, row in groupby(images, key=lambda image: image["row_number"]):
        samples = list(row)
        ranked = sorted(samples, key=lambda image: _rank(image, selection.by))
        kept = {id(image) for image in ranked[: selection.best]}
        yield from (image for image in samples if id(image) in kept)


def _rank(image: ExportImage, by: str | None) -> tuple[bool, float, int]:
    number = None if by is None else number_of(image, by)
    return number is None, -(number or 0.0), image["sample_index"]


def _bad_split(text: str) -> UsageError:
    return UsageError(
        f"--split {text!r}: expected names with fractions that make 1, as train=0.9,test=0.1"
    )
