"""Where a shift gets its engines from."""

from typing import Protocol

from imagemill.db.queries.work.claims import GroupChoice
from imagemill.worker.engine import Engine


class Shelf(Protocol):
    """Where a shift gets its engines from; tests have one that needs no torch."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The weights digests of the models that need no loading."""

    def engine(self, choice: GroupChoice) -> Engine:
        """An idle engine for a group.

        Raises `ModelError` if this worker can't serve the group, and `OutOfMemory` if its device
        is too small even for one slot.
        """

    def shrink(self, choice: GroupChoice) -> bool:
        """Give the group more room from now on, half as many slots first; False if it has all."""

    def refuse(self, choice: GroupChoice) -> bool:
        """Share that the group does not fit into the device's memory; False if that has no size.

        From then on no worker whose device is as small chooses it.
        """
