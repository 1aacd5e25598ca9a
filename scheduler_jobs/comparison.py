"""What differs between two jobs: rows, parameters, and pixels."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageChops

from imagemill.db.database import Database
from imagemill.db.errors import ObjectMissing
from imagemill.db.queries.pictures import comparison
from imagemill.db.queries.pictures.comparison import Compared
from imagemill.db.storage import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelDifference:
    """How far two pictures differ.

    `differing` is the number of pixels of which a channel differs, of `pixels` in all; `largest`
    is the largest difference of a channel, of 255. All are None where the pictures have different
    sizes, or were compared by their hashes alone; `why` says which.
    """

    pixels: int | None = None
    differing: int | None = None
    largest: int | None = None
    why: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """An image in which two jobs differ: `a` or `b` is None where only the other job has it.

    `parameters` has what differs by name, as it is in A and in B.
    """

    a: Compared | None
    b: Compared | None
    parameters: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    states: tuple[str, str] | None = None
    pixels: PixelDifference | None = None


@dataclass(kw_only=True, slots=True)
class Totals:
    """Counts over everything that was compared; `columns` counts differences by parameter."""

    only_a: int = 0
    only_b: int = 0
    matched: int = 0
    parameters_differ: int = 0
    states_differ: int = 0
    pixels_equal: int = 0
    pixels_differ: int = 0
    not_compared: int = 0
    columns: Counter[str] = field(default_factory=Counter)

    @property
    def differ(self) -> bool:
        """Whether anything differs at all."""
        counts = (self.only_a, self.only_b, self.parameters_differ, self.states_differ)
        return any((*counts, self.pixels_differ))


def compare(
    database: Database,
    storage: Storage | None,
    job_a: int,
    job_b: int,
    totals: Totals,
    *,
    listed_b: int,
) -> Iterator[Difference]:
    """Every image in which the jobs differ, in A's order; then the first `listed_b` only in B.

    `totals` is filled meanwhile. Without a storage, pixels are compared by hash alone. A file that
    is missing counts as not compared.
    """
    with database.reading() as session:
        for a, b in comparison.matched_images(session, job_a, job_b):
            difference = _difference(a, b, storage, totals)
            if difference is not None:
                yield difference
        totals.only_b = comparison.count_unmatched(session, job_b, job_a)
        rest = comparison.unmatched_images(session, job_b, job_a, limit=listed_b)
    yield from (Difference(a=None, b=image) for image in rest)


def difference_of(a: bytes, b: bytes) -> tuple[PixelDifference, Image.Image | None]:
    """How far two files' pixels differ, and the absolute difference as an RGB picture.

    There is no picture where the sizes differ, or a file can't be read.
    """
    try:
        one, other = (Image.open(io.BytesIO(body)).convert("RGB") for body in (a, b))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return PixelDifference(why="a file can't be read as a picture"), None
    if one.size != other.size:
        return PixelDifference(why="other size"), None
    apart = ImageChops.difference(one, other)
    red, green, blue = apart.split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    histogram = most.histogram()
    pixels = one.width * one.height
    found = PixelDifference(
        pixels=pixels,
        differing=pixels - histogram[0],
        largest=max(value for value, count in enumerate(histogram) if count),
    )
    return found, apart


def _difference(
    a: Compared, b: Compared | None, storage: Storage | None, totals: Totals
) -> Difference | None:
    if b is None:
        totals.only_a += 1
        return Difference(a=a, b=None)
    totals.matched += 1
    parameters = {
        name: (a.parameters.get(name), b.parameters.get(name))
        for name in {**a.parameters, **b.parameters}
        if a.parameters.get(name) != b.parameters.get(name)
    }
    totals.columns.update(list(parameters))
    totals.parameters_differ += bool(parameters)
    states = None if a.state == b.state else (a.state, b.state)
    totals.states_differ += states is not None
    pixels = _pixels(a, b, storage, totals)
    if not parameters and states is None and pixels is None:
        return None
    return Difference(a=a, b=b, parameters=parameters, states=states, pixels=pixels)


def _pixels(
    a: Compared, b: Compared, storage: Storage | None, totals: Totals
) -> PixelDifference | None:
    """None where the pixels are equal, or there are none to compare."""
    if a.object_key is None or b.object_key is None:
        totals.not_compared += 1
        return None
    if a.sha256 == b.sha256 or a.pixels_sha256 == b.pixels_sha256:
        totals.pixels_equal += 1
        return None
    if storage is None:
        totals.pixels_differ += 1
        return PixelDifference(why="other hash")
    try:
        found, _ = difference_of(storage.get(a.object_key), storage.get(b.object_key))
    except ObjectMissing:
        totals.not_compared += 1
        return PixelDifference(why="a file is missing")
    if found.differing == 0:
        # Of lossy files the hash is that of the pixels before they were encoded.
        totals.pixels_equal += 1
        return None
    totals.pixels_differ += 1
    return found
