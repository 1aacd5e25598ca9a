"""Ranges of numbers: `1..5`, `10..30..10`, `0.5..1.5..0.25`; both ends belong to them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from imagemill.scheduler_jobs.expansion.draws import share
from imagemill.scheduler_jobs.manifest import BadValue
from imagemill.scheduler_jobs.manifest.problems import shown

LONGEST = 10_000
"""Numbers in one range."""

_NUMBER = r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """`count` numbers from `start` on. Decimal: 0.1..0.3..0.1 ends at 0.3."""

    start: Decimal
    step: Decimal
    count: int

    @property
    def longest(self) -> int:
        """The most UTF-8 bytes a number of it has."""
        # Digits grow with the distance from 0, so an end is longest; a sign or point may add two.
        return max(len(self._text(0)), len(self._text(self.count - 1))) + 2

    def texts(self) -> Iterator[str]:
        """All numbers, in order."""
        return (self._text(n) for n in range(self.count))

    def draw(self, key: str) -> str:
        """One of them, each as likely."""
        return self._text(int(share(key) * self.count))

    def _text(self, n: int) -> str:
        return format(self.start + self.step * n, "f")


def read_range(text: str) -> Range | None:
    """The range that a text is, None if it is none.

    Without a step it counts by one, downwards where the end is the smaller number.

    Raises:
        BadValue: a step that leads away from the end or nowhere, or too many numbers.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    start, end = Decimal(match[1]), Decimal(match[2])
    step = Decimal(match[3]) if match[3] else Decimal(1 if start <= end else -1)
    if step == 0 or (end - start) * step < 0:
        raise BadValue(f"range {shown(text)}", "a step that leads from the start to the end")
    count = int((end - start) / step) + 1
    if count > LONGEST:
        raise BadValue(f"range {shown(text)} of {count:,} numbers", f"at most {LONGEST:,}")
    return Range(start=start, step=step, count=count)
