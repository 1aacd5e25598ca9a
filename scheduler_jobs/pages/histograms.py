"""Histograms of a job's values: a bar for each value, or ranges where there are too many.

A bar says which images it counts (`value`, or `low` and `high`), so that a page can show them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST_BARS = 20
"""More bars are too many to compare: numbers become ranges, and of texts the rarest are left out.
"""

_MOST_DISTINCT = 5_000
"""Different texts of a column that are counted. With more it is no category but, say, a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A number of images with one value, or with a value in [low, high)."""

    label: str
    images: int
    value: Any = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """The bars of one column. `others` are images with a text that has no bar of its own."""

    name: str
    bars: tuple[Bar, ...]
    others: int = 0


def histogram(name: str, counts: Mapping[Any, int]) -> Histogram | None:
    """The histogram of a column from its counted values; None if there is nothing to compare."""
    if not counts:
        return None
    numbers = all(_is_number(value) for value in counts)
    if numbers and len(counts) > MOST_BARS:
        return Histogram(name=name, bars=_ranges(counts))
    if numbers:
        ordered = sorted(counts.items())
    else:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    if not numbers and len(counts) > _MOST_DISTINCT:
        return None
    bars = tuple(
        Bar(label=_label(value), images=images, value=value)
        for value, images in ordered[:MOST_BARS]
    )
    if not numbers and len(counts) > MOST_BARS and bars[0].images == 1:
        return None  # every text is another one
    return Histogram(name=name, bars=bars, others=sum(n for _, n in ordered[MOST_BARS:]))


def extra_histograms(rows: Iterable[tuple[Mapping[str, Any], int]]) -> list[Histogram]:
    """Histograms of the manifest's own columns, from each row's columns and number of images.

    A column of texts that are all different has none.
    """
    counts: dict[str, Counter[Any]] = {}
    for extras, images in rows:
        for name, value in extras.items():
            seen = counts.setdefault(name, Counter())
            if isinstance(value, str | int | float | bool) and len(seen) <= 20 * _MOST_DISTINCT:
                seen[value] += images
    made = (histogram(f"extras.{name}", values) for name, values in sorted(counts.items()))
    return [each for each in made if each is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ranges(counts: Mapping[float, int]) -> tuple[Bar, ...]:
    """At most `MOST_BARS` ranges of equal width, with round limits, over all values."""
    low, high = float(min(counts)), float(max(counts))
    width = _round_width((high - low) / (MOST_BARS - 1))
    first = math.floor(low / width)
    images = [0] * (math.floor(high / width) - first + 1)
    for value, count in counts.items():
        images[math.floor(value / width) - first] += count
    # Written as decimals, so that a limit is 0.3 and not 0.30000000000000004.
    edges = [float(f"{(first + place) * width:.12g}") for place in range(len(images) + 1)]
    return tuple(
        Bar(label=f"{low:g} to {high:g}", images=number, low=low, high=high)
        for number, (low, high) in zip(images, pairwise(edges), strict=True)
    )


def _round_width(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(width for times in (1, 2, 2.5, 5, 10) if (width := times * power) >= least)


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
