"""Ranges of numbers: `1..5`, `10..30..10`, `0.5..1.5..0.25`. Both ends are included."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from imagemill.scheduler_jobs.expansion.draws import share
from imagemill.scheduler_jobs.manifest import BadValue
from imagemill.scheduler_jobs.manifest.problems import shown

LONGEST = 10_000
"""The most numbers in one range."""

_NUMBER = r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """`count` numbers from `start` on. They are decimal, so 0.1..0.3..0.1 ends at exactly 0.3."""

    start: Decimal
    step: Decimal
    count: int

    @property
    def longest(self) -> int:
        """An upper bound for the UTF-8 bytes of one of its numbers."""
        # The digits grow with the distance from 0, so one of the ends has the most. A sign and a
        # point may add two.
        return max(len(self._text(0)), len(self._text(self.count - 1))) + 2

    def texts(self) -> Iterator[str]:
        """All numbers, in order."""
        return (self._text(n) for n in range(self.count))

    def draw(self, key: str) -> str:
        """One of the numbers. All are equally likely."""
        return self._text(int(share(key) * self.count))

    def _text(self, n: int) -> str:
        return format(self.start + self.step * n, "f")


def read_range(text: str) -> Range | None:
    """The range that a text describes; None if it is no range.

    Without a step it counts by one, downwards if the end is the smaller number.

    Raises:
        BadValue: the step does not lead to the end, or there are too many numbers.
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
