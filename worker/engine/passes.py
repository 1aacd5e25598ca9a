"""Which images share the next forward pass, where they can't all share it."""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

_PATIENCE = 16
"""An image with no company waits for so many passes for each kind of pass that is waited for. So
one pass in 16 at most is made for such images, and none of them waits for ever."""


class Waiting(Protocol):
    """An image under way. It waits since the engine had made so many passes."""

    waiting_since: int


Image = TypeVar("Image", bound=Waiting)


def next_pass(groups: Collection[Sequence[Image]], *, places: int, passes: int) -> list[Image]:
    """The images of the next pass: of a full group, else of the largest.

    A group has the images that may share a pass. Of several, the one whose image has waited longest
    is first, and within a group those images. A group that has waited too long goes before all
    others. `passes` have been made so far.
    """
    overdue = passes - _PATIENCE * len(groups)

    def urgency(group: Sequence[Image]) -> tuple[bool, int, int]:
        late = group[0].waiting_since < overdue
        return late, 0 if late else len(group), -group[0].waiting_since

    first = [sorted(group, key=lambda image: image.waiting_since)[:places] for group in groups]
    return max(first, key=urgency)


def missing(groups: Collection[Sequence[Image]], *, places: int, most: int) -> int:
    """How many images are missing until a pass is full, with at most `most` under way."""
    largest = max(map(len, groups), default=0)
    under_way = sum(map(len, groups))
    return max(0, min(places - largest, most - under_way))


def packed(waiting: Sequence[tuple[Image, int]], *, rows: int, passes: int) -> list[Image]:
    """Those that go into the next pass of so many rows; each waits with the rows that it needs.

    They are all, if they fit. Else they go in the order in which they have waited, or the largest
    goes first where that fills more rows and nobody has waited too long. Nobody may need more than
    a whole pass. `passes` have been made so far.
    """
    if sum(needed for _, needed in waiting) <= rows:
        return [image for image, _ in waiting]
    in_turn = sorted(waiting, key=lambda pair: pair[0].waiting_since)
    chosen, filled = _fitting(in_turn, rows)
    if in_turn[0][0].waiting_since >= passes - _PATIENCE:
        largest, more = _fitting(sorted(in_turn, key=lambda pair: -pair[1]), rows)
        if more > filled:
            chosen = largest
    return [image for image, _ in waiting if any(image is one for one in chosen)]


def _fitting(waiting: Sequence[tuple[Image, int]], rows: int) -> tuple[list[Image], int]:
    """One after another as long as they fit, and the number of rows that they fill."""
    found, filled = [], 0
    for image, needed in waiting:
        if filled + needed <= rows:
            found.append(image)
            filled += needed
    return found, filled
