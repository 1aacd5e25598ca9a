"""Scenes of coloured shapes on a plain background, and the 64×64 pictures of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 64
"""Pixels of a picture's side."""

OVERSAMPLING = 4
"""A picture is drawn this many times larger and box-reduced: smooth edges."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 15),
    "yellow": (250, 225, 40),
    "green": (30, 150, 60),
    "cyan": (45, 210, 215),
    "blue": (35, 70, 215),
    "purple": (125, 40, 160),
    "pink": (250, 140, 190),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}

SIZES: dict[str, float] = {"small": 9.0, "medium": 14.0, "large": 20.0}
"""Half of a shape's height in pixels."""

PAIR_SIZES: dict[str, float] = {"small": 8.0, "medium": 11.0, "large": 13.0}
"""The same where two shapes stand side by side."""

POSITIONS: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}

HELD_OUT = 0.08
"""The share of (colour, kind, background) triples that training never sees, in any wording, size,
position or number."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a caption can tell: one or two shapes of one kind and colour on a background."""

    kind: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "centre"
    count: int = 1

    @property
    def unseen(self) -> bool:
        """Whether training leaves this scene's (colour, kind, background) out; fixed by a hash."""
        words = f"shapes64/{self.colour}/{self.kind}/{self.background}"
        return hashlib.sha256(words.encode()).digest()[0] < HELD_OUT * 256


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape as it is drawn: centre and half height in pixels."""

    kind: str
    x: float
    y: float
    radius: float


def _circle() -> list[tuple[float, float]]:
    return [(cos(2 * pi * i / 72), sin(2 * pi * i / 72)) for i in range(72)]


def _star() -> list[tuple[float, float]]:
    radii = [1.08 if i % 2 == 0 else 0.45 for i in range(10)]
    return [(r * sin(pi * i / 5), -r * cos(pi * i / 5)) for i, r in enumerate(radii)]


def _cross() -> list[tuple[float, float]]:
    a, b = 1.0, 0.34
    quarter = [(-b, -a), (b, -a), (b, -b), (a, -b)]
    return [*quarter, *((a, b), (b, b), (b, a)), *((-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b))]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(72):
        t = 2 * pi * i / 72
        height = 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)
        points.append((sin(t) ** 3, -(height + 2.5) / 14.5))
    return points


KINDS: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "circle": _circle,
    "square": lambda: [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": lambda: [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star,
    "diamond": lambda: [(0.0, -1.1), (0.78, 0.0), (0.0, 1.1), (-0.78, 0.0)],
    "cross": _cross,
    "heart": _heart,
    "ring": _circle,
}
"""The outline of each kind, in units of the half height."""

RING_HOLE = 0.52
"""A ring's inner radius, in units of its outer one."""


def random_scene(rng: np.random.Generator, *, unseen: bool, pairs: float = 0.12) -> Scene:
    """A scene of the training part, or of the part that training never sees."""
    while True:
        background, colour = rng.choice(list(COLOURS), size=2, replace=False).tolist()
        pair = rng.random() < pairs
        places = ["centre", "top", "bottom"] if pair else list(POSITIONS)
        scene = Scene(
            kind=str(rng.choice(list(KINDS))),
            colour=colour,
            background=background,
            size=str(rng.choice(list(SIZES))),
            position="centre" if rng.random() < 0.25 else str(rng.choice(places)),
            count=2 if pair else 1,
        )
        if scene.unseen == unseen:
            return scene


def place(scene: Scene, rng: np.random.Generator) -> list[Shape]:
    """Where the scene's shapes stand, with a little jitter, always clear of the border."""
    sizes = SIZES if scene.count == 1 else PAIR_SIZES
    radius = sizes[scene.size] * rng.uniform(0.93, 1.07)
    reach = min(16.0, SIDE / 2 - 4.0 - 1.1 * radius)
    right, down = POSITIONS[scene.position]
    x = SIDE / 2 + right * reach + rng.uniform(-1.2, 1.2)
    y = SIDE / 2 + down * reach + rng.uniform(-1.2, 1.2)
    if scene.count == 1:
        return [Shape(kind=scene.kind, x=x, y=y, radius=radius)]
    return [Shape(kind=scene.kind, x=x + side * 15.5, y=y, radius=radius) for side in (-1, 1)]


def cover(shapes: Sequence[Shape]) -> Floats:
    """How much of each pixel the shapes cover: (64, 64), 0 to 1."""
    large = Image.new("L", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
    pen = ImageDraw.Draw(large)
    for shape in shapes:
        outline = np.array(KINDS[shape.kind]()) * shape.radius + (shape.x, shape.y)
        pen.polygon([tuple(point) for point in (outline * OVERSAMPLING - 0.5).tolist()], fill=255)
        if shape.kind == "ring":
            hole = np.array(_circle()) * shape.radius * RING_HOLE + (shape.x, shape.y)
            pen.polygon([tuple(point) for point in (hole * OVERSAMPLING - 0.5).tolist()], fill=0)
    return np.asarray(large.reduce(OVERSAMPLING), dtype=np.float32) / np.float32(255)


def paint(coverage: Floats, *, colour: str, background: str) -> NDArray[np.uint8]:
    """The picture as (64, 64, 3) bytes."""
    over, under = (np.array(COLOURS[name], dtype=np.float32) for name in (colour, background))
    mixed = under + coverage[..., None] * (over - under)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of the scene as (64, 64, 3) bytes."""
    return paint(cover(place(scene, rng)), colour=scene.colour, background=scene.background)
