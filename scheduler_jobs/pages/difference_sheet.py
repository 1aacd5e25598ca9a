"""A page of pairs of pictures: of one job, of the other, and what differs, made visible."""

import io
from collections.abc import Iterable, Iterator

from PIL import Image

from imagemill.db.errors import ObjectMissing
from imagemill.db.queries.pictures.comparison import Compared
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.comparison import Difference, difference_of
from imagemill.scheduler_jobs.pages.contact_sheet import Tile, contact_sheet

COLUMNS = 3


def difference_sheet(
    differences: Iterable[Difference], storage: Storage, *, tile_size: int, title: str
) -> Image.Image:
    """An RGB picture with a row for each pair: A, B, and their difference, amplified.

    The difference is multiplied so that its largest value becomes white.
    """
    pairs = list(differences)
    count = "1 pair" if len(pairs) == 1 else f"{len(pairs):,} pairs"
    subtitle = f"{count}: A, B, and the difference, amplified"
    return contact_sheet(
        (tile for pair in pairs for tile in _tiles(pair, storage)),
        columns=COLUMNS,
        tile_size=tile_size,
        title=title,
        subtitle=subtitle if pairs else "no pictures differ",
    )


def _tiles(pair: Difference, storage: Storage) -> Iterator[Tile]:
    bodies = []
    for name, image in (("A", pair.a), ("B", pair.b)):
        body = _body(image, storage)
        bodies.append(body)
        yield _tile(name, image, body, pair)
    yield _difference_tile(*bodies)


def _body(image: Compared | None, storage: Storage) -> bytes | None:
    if image is None or image.object_key is None:
        return None
    try:
        return storage.get(image.object_key)
    except ObjectMissing:
        return None


def _tile(name: str, image: Compared | None, body: bytes | None, pair: Difference) -> Tile:
    if image is None:
        return Tile(image=None, caption="", label=name, note="not in this job")
    own = (0 if name == "A" else 1, pair.parameters)
    details = " · ".join(
        f"{parameter} {values[own[0]]}"
        for parameter, values in own[1].items()
        if parameter not in ("prompt", "negative_prompt", "weights_digest")
    )
    return Tile(
        image=body,
        caption=str(image.parameters["prompt"]),
        label=f"{name} · image {image.image_id} · {image.row_key or f'row {image.row_number}'}",
        details=details or f"seed {image.parameters['seed']}",
        note="" if body is not None else f"no picture: {image.state}",
    )


def _difference_tile(a: bytes | None, b: bytes | None) -> Tile:
    if a is None or b is None:
        return Tile(image=None, caption="", note="nothing to compare")
    found, apart = difference_of(a, b)
    if apart is None or not found.largest or not found.pixels or found.differing is None:
        return Tile(image=None, caption="", note=found.why or "the pixels are equal")
    factor = 255 / found.largest
    visible = apart.point([min(255, round(value * factor)) for value in range(256)] * 3)
    file = io.BytesIO()
    visible.save(file, "PNG")
    return Tile(
        image=file.getvalue(),
        caption=f"{found.differing:,} of {found.pixels:,} pixels differ",
        label=f"difference, ×{factor:.3g}",
        details=f"at most {found.largest} of 255",
    )
