"""The manifests of the comparison: everything equal, a hundred combinations, most rows different.

The same rows are given to every way of rendering; only their seeds differ from manifest to manifest
and change from round to round, so that nothing is found that was rendered before.
"""

import csv
import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SIDE = 64
SAMPLERS = ("ddim", "euler", "euler_a", "dpmpp_2m", "unipc")
"""Samplers that manifests name most; each calls the denoiser once a step."""

_SEEDS = 1_000_000
"""How many rows with seeds of their own a manifest may have."""

_MIXED_STEPS = (10, 15, 20, 30)
_MIXED_GUIDANCE = (2.0, 3.0, 5.0, 7.5, 9.0)
_ANY_STEPS = range(8, 41)
_ANY_GUIDANCE = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0)
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
_SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One row of a manifest: one picture. Every row has guidance."""

    id: int
    prompt: str
    seed: int
    sampler: str
    steps: int
    guidance_scale: float

    @property
    def settings(self) -> tuple[str, int, float]:
        """What rows must have in common to be rendered as a list."""
        return self.sampler, self.steps, self.guidance_scale


def uniform(count: int) -> list[Request]:
    """Rows that differ in prompt and seed alone: DDIM, 20 steps, guidance 5."""
    return _requests([("ddim", 20, 5.0)] * count, first_seed=0)


def mixed(count: int) -> list[Request]:
    """Rows of a hundred combinations of sampler, steps and guidance, in a random order."""
    combinations = list(itertools.product(SAMPLERS, _MIXED_STEPS, _MIXED_GUIDANCE))
    random.Random(1).shuffle(combinations)  # a short manifest has the same mixture
    settings = list(itertools.islice(itertools.cycle(combinations), count))
    random.Random(2).shuffle(settings)
    return _requests(settings, first_seed=_SEEDS)


def different(count: int) -> list[Request]:
    """Rows of which most have settings of their own, of 1,320 combinations."""
    combinations = list(itertools.product(SAMPLERS, _ANY_STEPS, _ANY_GUIDANCE))
    return _requests(random.Random(3).choices(combinations, k=count), first_seed=2 * _SEEDS)


def in_round(rows: Sequence[Request], number: int) -> list[Request]:
    """The rows with other seeds in each round."""
    return [replace(row, seed=row.seed + 3 * _SEEDS * number) for row in rows]


def row_forwards(rows: Sequence[Request]) -> int:
    """Rows that the U-Net must compute: two a step, with and without the prompt."""
    return sum(2 * row.steps for row in rows)


def write(rows: Sequence[Request], file: Path) -> None:
    """The rows as a CSV that imagemill reads."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [*asdict(rows[0]), "width", "height"])
        writer.writeheader()
        writer.writerows({**asdict(row), "width": SIDE, "height": SIDE} for row in rows)


def _requests(settings: Sequence[tuple[str, int, float]], *, first_seed: int) -> list[Request]:
    dice = random.Random(4)
    requests = []
    for number, (sampler, steps, guidance) in enumerate(settings):
        colour, ground = dice.sample(_COLOURS, 2)
        requests.append(
            Request(
                id=number,
                prompt=f"a {colour} {dice.choice(_SHAPES)} on a {ground} background",
                seed=first_seed + number,
                sampler=sampler,
                steps=steps,
                guidance_scale=guidance,
            )
        )
    return requests
