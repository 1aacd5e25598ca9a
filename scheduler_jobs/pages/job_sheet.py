"""A job's pictures on pages: its first images, done and dead, from database and storage."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from PIL import Image
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.errors import StorageError, UsageError
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState
from imagemill.db.storage import Storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.exports.selection import list_where
from imagemill.scheduler_jobs.pages.contact_sheet import TEXT, Tile, contact_sheet
from imagemill.scheduler_jobs.pages.fonts import Lettering

SETTLED = (ImageState.DONE, ImageState.DEAD)

_OPTIONS: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "strength": ("strength", "init_image"),
        "control_scale": ("control", "control_image"),
        "reference_scale": ("reference", "reference_image"),
        "guidance_start": ("guided from", None),
        "guidance_end": ("guided to", None),
        "guidance_rescale": ("rescale", None),
        "clip_skip": ("clip skip", None),
    }
)
"""Parameters without a field of their own in a report: what a tile calls them, and the picture that
they are about."""

_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(ImageSpec)}

PAGE_IMAGES = 1000
"""A page of more is too large to look at, and soon for anything to open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page, the number of images on it, and its number among the pages.

    `undrawn` has the characters of its prompts that no font of this machine has.
    """

    picture: Image.Image
    images: int
    number: int
    pages: int
    undrawn: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The layout of a page: images side by side, their size in pixels, and images on a page."""

    columns: int = 6
    tile_size: int = 192
    page_images: int = PAGE_IMAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which images of a job are shown: in these states, of the row with this `id`, by a condition.

    The condition is one as `export --where` takes it.
    """

    states: Collection[ImageState] = SETTLED
    key: str | None = None
    where: str | None = None


def job_pages(
    database: Database,
    storage: Storage,
    job_id: int,
    *,
    limit: int,
    layout: Layout | None = None,
    choice: Choice | None = None,
) -> Iterator[Page]:
    """The job's first `limit` images on pages; one empty page if there are none.

    A missing file becomes a tile that says so. Raises `StorageError` if the store does not answer,
    and `UsageError` for a condition that can't be read or asks for what no image has, and for a
    choice that leaves none of the job's images.
    """
    layout, choice = layout or Layout(), choice or Choice()
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        images = first_images(session, job_id, choice, limit=limit)
        counts = count_images(session, [job_id])[job_id]
    if not images and choice != Choice():
        raise UsageError(f"no image of job {job_id} is left: --where, --key or --state takes none")
    total = _total(choice, images, counts, limit)
    differing = _differing(images)
    lettering = Lettering.load(TEXT)
    pages = max(1, -(-len(images) // layout.page_images))
    for number in range(pages):
        first = number * layout.page_images
        shown = images[first : first + layout.page_images]
        picture = contact_sheet(
            _tiles(shown, storage, differing),
            columns=layout.columns,
            tile_size=layout.tile_size,
            title=job.name,
            subtitle=f"job {job_id}, {_extent(first, len(shown), total)}"
            + (f", page {number + 1} of {pages}" if pages > 1 else ""),
        )
        undrawn = lettering.lacking("".join(image.prompt for image in shown))
        yield Page(
            picture=picture,
            images=len(shown),
            number=number + 1,
            pages=pages,
            undrawn=undrawn,
        )


def _total(choice: Choice, images: Sequence[ImageReport], counts: Counts, limit: int) -> int | None:
    """How many images there are to show; None where a condition and `limit` leave that open."""
    if choice.where is not None:
        return len(images) if len(images) < limit else None
    if choice.key is not None:  # the images of one row always fit
        return len(images)
    return max(sum(int(getattr(counts, each.value)) for each in choice.states), len(images))


def _extent(first: int, shown: int, total: int | None) -> str:
    """`first 60 of 480 images`, `images 1,001 to 2,000 of 4,800`, `24 images`."""
    if total is None:
        return f"images {first + 1:,} to {first + shown:,} of those that the condition takes"
    if shown == total:
        return f"{total:,} {'image' if total == 1 else 'images'}"
    if first == 0:
        return f"first {shown:,} of {total:,} images"
    return f"images {first + 1:,} to {first + shown:,} of {total:,}"


def _differing(images: Sequence[ImageReport]) -> frozenset[str]:
    """The settings, of those that a tile can show, that differ between the images."""
    names = ("model", "sampler", "guidance_scale", "steps", "width", "height", "sample")
    differing = {name for name in names if len({getattr(i, name) for i in images}) > 1}
    options = {name for name in _OPTIONS if len({_option(i, name) for i in images}) > 1}
    return frozenset(differing | options)


def _option(image: ImageReport, name: str) -> float | None:
    """The value of one of `_OPTIONS`; None where the image has not the picture that it is about."""
    _, picture = _OPTIONS[name]
    if picture is not None and picture not in image.options:
        return None
    value: float | None = image.options.get(name, _DEFAULTS[name])
    return value


def first_images(session: Session, job_id: int, choice: Choice, *, limit: int) -> list[ImageReport]:
    """The job's first `limit` images of those chosen."""
    filters = [ImageFilter(job_id=job_id, state=each, key=choice.key) for each in choice.states]
    return list_where(session, filters, choice.where, limit=limit)


def tile_of(
    image: ImageReport, storage: Storage, *, label: str, caption: str = "", details: str = ""
) -> Tile:
    """An image's tile: its picture, or why there is none; its outcome where that is not ok."""
    picture, note = None, image.error_code or ""
    if image.object_key is not None:
        note = image.outcome if image.outcome and image.outcome != "ok" else ""
        try:
            picture = storage.get(image.object_key)
        except StorageError as error:
            if error.retryable:
                raise
            note = error.code
    return Tile(image=picture, caption=caption, label=label, details=details, note=note)


def _tiles(
    images: Sequence[ImageReport], storage: Storage, differing: frozenset[str]
) -> Iterator[Tile]:
    for image in images:
        yield tile_of(
            image,
            storage,
            label=_label(image),
            caption=image.prompt,
            details=_details(image, differing),
        )


def _label(image: ImageReport) -> str:
    """The image's name on the sheet: its id, and its row's own id or number."""
    return f"image {image.id} · " + (image.key or f"row {image.row}")


def _details(image: ImageReport, differing: frozenset[str]) -> str:
    """The values by which an image differs from the others."""
    parts = {
        "model": image.model,
        "sampler": image.sampler,
        "guidance_scale": f"g {image.guidance_scale:g}",
        "steps": f"{image.steps} steps",
    }
    shown = [text for name, text in parts.items() if name in differing]
    options = {name: _option(image, name) for name in _OPTIONS if name in differing}
    shown += [
        f"{_OPTIONS[name][0]} {value:g}" for name, value in options.items() if value is not None
    ]
    if differing & {"width", "height"}:
        shown.append(f"{image.width}x{image.height}")
    return " · ".join([*shown, f"seed {image.seed}"])
