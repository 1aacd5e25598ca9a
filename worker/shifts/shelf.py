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
        """An idle engine for a group. Raises `ModelError` if this worker can't serve the group."""

    def shrink(self, choice: GroupChoice) -> bool:
        """Give the group half as many slots from now on; False if it has only one already."""
