"""A job's pictures on grids: how two parameters change a picture, one grid for everything else.

Images that differ in anything but the two axes and the seed stand on grids of their own. Where a
cell then still has several images, the first of each cell make one grid, the second the next.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.storage import Storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.pages.contact_sheet import TEXT
from imagemill.scheduler_jobs.pages.fonts import Lettering
from imagemill.scheduler_jobs.pages.grid_sheet import Axis, GridSheet
from imagemill.scheduler_jobs.pages.job_sheet import Choice, Page, first_images, tile_of

ROW = "row"
"""The axis of the manifest's rows: what stands against a single axis."""

_FIELDS = (
    *("model", "sampler", "steps", "guidance_scale", "size", "width", "height", "seed"),
    *("prompt", "negative_prompt", "format", ROW),
)
_NAMED = ("model", "sampler", "steps", "guidance_scale", "size")
"""What a grid's second line says, where it is no axis."""

_MOST_VALUES = 200
_MOST_PIXELS = 150_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class GridLayout:
    """The two axes by name, and the size of a picture in pixels. One axis may be left out."""

    x: str | None
    y: str | None
    tile_size: int = 192


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """One grid: its images by (column, row), and the values of its axes."""

    cells: dict[tuple[Any, Any], ImageReport]
    x_values: Sequence[Any]
    y_values: Sequence[Any]


def job_grids(
    database: Database,
    storage: Storage,
    job_id: int,
    layout: GridLayout,
    *,
    limit: int,
    choice: Choice | None = None,
) -> Iterator[Page]:
    """The grids of a job's first `limit` images, each a page of its own.

    Raises `UsageError` for an axis that its images do not have, for images that are no grid in
    these axes, or for a grid that is too large.
    """
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        images = first_images(session, job_id, choice or Choice(), limit=limit)
    if not images:
        raise UsageError(f"job {job_id} has no images for a grid")
    x, y = layout.x or ROW, layout.y or ROW
    _check_axes(images, x, y)
    grids = list(_grids(images, x, y))
    if len(images) > 1 and len(grids) == len(images):
        raise _no_grid(images, x, y)
    sheets = [_sheet(grid, (x, y), layout.tile_size, f"{job.name}, job {job_id}") for grid in grids]
    lettering = Lettering.load(TEXT)
    for number, (grid, sheet) in enumerate(zip(grids, sheets, strict=True), 1):
        picture = sheet.draw(_Cells(grid, storage))
        texts = (sheet.title, *sheet.x.values, *sheet.y.values)
        yield Page(
            picture=picture,
            images=len(grid.cells),
            number=number,
            pages=len(grids),
            undrawn=lettering.lacking("".join(texts)),
        )


class _Cells:
    """The tiles of a grid, each with its image's id, and its seed if a prompt has several."""

    def __init__(self, grid: _Grid, storage: Storage) -> None:
        self._grid = grid
        self._storage = storage
        seeds = defaultdict(set)
        for image in grid.cells.values():
            seeds[image.prompt].add(image.seed)
        self._seeds = any(len(found) > 1 for found in seeds.values())

    def __call__(self, column: int, row: int) -> Any:
        grid = self._grid
        image = grid.cells.get((grid.x_values[column], grid.y_values[row]))
        if image is None:
            return None
        label = f"image {image.id}" + (f" · seed {image.seed}" if self._seeds else "")
        return tile_of(image, self._storage, label=label)


def _check_axes(images: Sequence[ImageReport], x: str, y: str) -> None:
    if x == y:
        raise UsageError(f"--x and --y are both {x}; they must be two parameters")
    known = {*_FIELDS, *(n for image in images for n in (*image.options, *image.extras))}
    for flag, name in (("--x", x), ("--y", y)):
        if name not in known:
            raise UsageError(f"{flag} {name}: no such parameter here; known: {_listed(known)}")


def _grids(images: Iterable[ImageReport], x: str, y: str) -> Iterator[_Grid]:
    """The images divided: first by all that is no axis, then so that a cell has one image."""
    groups: dict[tuple[str, ...], dict[tuple[Any, Any], list[ImageReport]]] = {}
    for image in images:
        others = [name for name in (*_NAMED, "format") if name not in (x, y)]
        # Two axes of a size are a size.
        others = [name for name in others if name != "size" or not {x, y} & {"width", "height"}]
        texts = [] if ROW in (x, y) else [image.prompt, image.negative_prompt]
        apart = (*texts, *(repr(_value(image, name)) for name in others), _options(image, x, y))
        cells = groups.setdefault(apart, defaultdict(list))
        cells[_value(image, x), _value(image, y)].append(image)
    for cells in groups.values():
        for layer in range(max(map(len, cells.values()))):
            chosen = {place: found[layer] for place, found in cells.items() if layer < len(found)}
            columns, rows = zip(*chosen, strict=True)
            yield _Grid(cells=chosen, x_values=_ordered(columns), y_values=_ordered(rows))


def _sheet(grid: _Grid, axes: tuple[str, str], tile_size: int, about: str) -> GridSheet:
    """The page around a grid: its prompt, what is the same for all of it, and its axes."""
    images = list(grid.cells.values())
    first = images[0]
    same = [about, *([] if ROW in axes else [first.key or f"row {first.row}"])]
    same += [f"{name} {_text(_value(first, name))}" for name in _NAMED if name not in axes]
    if len({image.seed for image in images}) == 1:
        same.append(f"seed {first.seed}")
    one_prompt = len({image.prompt for image in images}) == 1
    x, y = (
        Axis(title=name, values=[_text(value) for value in values])
        for name, values in zip(axes, (grid.x_values, grid.y_values), strict=True)
    )
    sheet = GridSheet(
        title=first.prompt if one_prompt else f"{axes[0]} and {axes[1]}",
        subtitle=" · ".join(same),
        x=x,
        y=y,
        tile_size=tile_size,
    )
    too_many = max(len(x.values), len(y.values)) > _MOST_VALUES
    if too_many or sheet.size()[0] * sheet.size()[1] > _MOST_PIXELS:
        raise UsageError(
            f"a grid of {len(x.values):,} x {len(y.values):,} pictures is too large; use other "
            "axes, a smaller --tile, or --key for one row"
        )
    return sheet


def _value(image: ImageReport, name: str) -> Any:
    """An image's value of an axis, something that can be a key."""
    if name == "size":
        return f"{image.width}x{image.height}"
    if name == ROW:
        return image.key or image.prompt
    value = getattr(image, name, None) if name in _FIELDS else None
    if value is None:
        value = image.options.get(name, image.extras.get(name))
    return repr(value) if isinstance(value, list | dict) else value


def _options(image: ImageReport, x: str, y: str) -> str:
    return repr({name: image.options[name] for name in sorted(image.options) if name not in (x, y)})


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers by size, texts in the order in which they came."""
    once = list(dict.fromkeys(values))
    numbers = all(isinstance(each, int | float) for each in once)
    return sorted(once) if numbers else once


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _no_grid(images: Sequence[ImageReport], x: str, y: str) -> UsageError:
    """Why each image would get a grid of its own, and what gives a page instead."""
    names = ("prompt", "negative_prompt", *_NAMED, "format", "seed")
    others = [
        name for name in names if name not in (x, y) and len({_value(i, name) for i in images}) > 1
    ]
    less = "both for a plain sheet" if ROW in (x, y) else "one to set the rows against the other"
    return UsageError(
        f"--x {x}, --y {y}: no grid, as no two of the {len(images):,} images differ in these alone "
        f"(but in {', '.join(others) or 'other options'}); leave out {less}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
