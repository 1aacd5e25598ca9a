"""Reads background, shape colour and shape kind off a picture: plain arithmetic, no model.

The border tells the background, the pixels farthest from it the shape's colour; the shape's outline
is compared with drawn outlines of every kind. Anything that is not close enough is `None`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemill.worker.scores.shapes64.drawing import COLOURS, KINDS, SIDE, Floats, Shape, cover

NEAR = 60.0
"""The largest RGB distance to a palette colour that still counts as that colour."""

ALIKE = 0.62
"""The smallest soft overlap with a drawn outline that still counts as that kind."""

GRID = 24
"""An outline is compared on this many cells a side."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a picture shows; `count` is the number of shapes of about the same size."""

    background: str | None
    colour: str | None
    kind: str | None
    count: int


def look(picture: Image.Image | NDArray[np.uint8]) -> Sight:
    """What the picture shows. Other sizes than 64×64 are box-resized first."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32)
    ground = _ground(pixels)
    background = None if ground is None else nearest_colour(ground)
    if ground is None:
        return Sight(background=None, colour=None, kind=None, count=0)
    distance = np.linalg.norm(pixels - ground, axis=-1)
    standing_out = distance[distance > 30]
    if standing_out.size < 16:
        return Sight(background=background, colour=None, kind=None, count=0)
    inside = distance >= 0.8 * np.percentile(standing_out, 90)
    ink = np.median(pixels[inside], axis=0)
    towards = ink - ground
    coverage = np.clip((pixels - ground) @ towards / (towards @ towards), 0, 1)
    parts = _parts(coverage > 0.5)
    kind = _kind(coverage, parts[0]) if parts else None
    return Sight(background=background, colour=nearest_colour(ink), kind=kind, count=len(parts))


def nearest_colour(rgb: NDArray[np.float32]) -> str | None:
    """The palette's name for a colour, or None when it is none of them."""
    distances = {name: np.linalg.norm(rgb - np.array(colour)) for name, colour in COLOURS.items()}
    name = min(distances, key=lambda name: float(distances[name]))
    return name if distances[name] <= NEAR else None


def _ground(pixels: Floats) -> NDArray[np.float32] | None:
    """The colour of the outermost pixels, or None when they are not of one colour."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    ground: NDArray[np.float32] = np.median(border, axis=0)
    plain = np.linalg.norm(border - ground, axis=-1) < 40
    return ground if plain.mean() > 0.9 else None


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts of a mask, the largest first, without crumbs."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max(
            [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2],
             padded[1:-1, 2:]],
            axis=0,
        )  # fmt: skip
        spread[~mask] = 0
        if np.array_equal(spread, labels):
            break
        labels = spread
    names, sizes = np.unique(labels[mask], return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [labels == names[i] for i in order if sizes[i] >= max(12, 0.3 * sizes.max())]


def _normalised(coverage: Floats, part: NDArray[np.bool_]) -> Floats:
    """The part's coverage, centred and scaled so that its longer side fills the grid."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    alone = np.zeros_like(coverage)
    window = np.s_[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    alone[window] = coverage[window]
    half = max(bottom - top, right - left) / 2 + 1
    middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
    box = (middle_x - half, middle_y - half, middle_x + half, middle_y + half)
    image = Image.fromarray(alone).transform(
        (GRID, GRID), Image.Transform.EXTENT, box, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(image, dtype=np.float32)


@cache
def _outlines() -> tuple[list[str], Floats]:
    """Drawn outlines of every kind at several sizes and places between pixels."""
    kinds, grids = [], []
    for kind in KINDS:
        for radius in (7.5, 9.0, 11.0, 14.0, 20.0):
            for x, y in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):
                drawn = cover([Shape(kind=kind, x=32 + x, y=32 + y, radius=radius)])
                kinds.append(kind)
                grids.append(_normalised(drawn, drawn > 0.5))
    return kinds, np.stack(grids)


def _kind(coverage: Floats, part: NDArray[np.bool_]) -> str | None:
    kinds, outlines = _outlines()
    seen = _normalised(coverage, part)
    both = np.minimum(outlines, seen).sum(axis=(1, 2))
    either = np.maximum(outlines, seen).sum(axis=(1, 2))
    overlap = both / either
    best = int(overlap.argmax())
    return kinds[best] if overlap[best] >= ALIKE else None
