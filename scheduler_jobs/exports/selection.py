"""Which images an export takes, and in which order: the same ones in every pass over a snapshot."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.queries.dataset import COLUMN_NAMES, done_images, stream_images
from imagemill.db.queries.scores import score_names
from imagemill.db.states import ImageState, Outcome
from imagemill.scheduler_jobs.exports.where import OWN_COLUMNS, TAG, Condition

TAGS = "tags"
"""The column with all tags of an image, where there are any."""

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


def select_images(
    session: Session, selection: Selection, *, failures: bool = False
) -> Iterator[ExportImage]:
    """The images that are taken, as a stream; dead ones too if the format keeps `failures`."""
    condition = None if selection.where is None else Condition(selection.where)
    states = [ImageState.DONE, ImageState.DEAD] if failures else [ImageState.DONE]
    for job_id in selection.jobs:
        taken_names = {TAGS, *score_names(session, job_id)}
        images = (
            _image(found, taken_names) for found in stream_images(session, job_id, states=states)
        )
        taken = (image for image in images if _is_taken(image, selection, condition))
        yield from taken if selection.best is None else _best(taken, selection)


def select_done(
    session: Session, image_ids: Sequence[int], selection: Selection
) -> Iterator[ExportImage]:
    """Those of these images (a page) that are done and taken, by job and id.

    Jobs, best ones and splits of the selection are left out of account.
    """
    condition = None if selection.where is None else Condition(selection.where)
    names: dict[int, set[str]] = {}
    for found in done_images(session, image_ids):
        job_id = found["job_id"]
        if job_id not in names:
            names[job_id] = {TAGS, *score_names(session, job_id)}
        image = _image(found, names[job_id])
        if _is_taken(image, selection, condition):
            yield image


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
