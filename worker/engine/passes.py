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
