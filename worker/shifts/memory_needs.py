"""The memory that models need: this process measures it and tells other workers."""

import logging
from collections.abc import Callable

from imagemill.db.database import Database
from imagemill.db.queries.work import memory_needs
from imagemill.db.queries.work.memory_needs import Card
from imagemill.worker.models.device_memory import DeviceMemory

log = logging.getLogger(__name__)

_OWN_SHARE = 0.9
"""If less than this part of a card is available, other processes use the card too. Running out of
memory then says nothing about the card itself."""


class MemoryNeeds:
    """The needs of models and groups on this process's card. `tuning` is as in `Card`."""

    def __init__(
        self, database: Database, *, memory: DeviceMemory, tuning: str, device_class: str
    ) -> None:
        self.memory = memory
        self.card = Card(memory_bytes=memory.available(), tuning=tuning)
        self._database = database
        self._device_class = device_class

    def is_measured(self, key: str) -> bool:
        """Whether some worker of this tuning has measured a model or a group."""
        with self._database.reading() as session:
            found = memory_needs.find_needs(session, tuning=self.card.tuning, keys=[key])
        return key in found and found[key].needed_bytes > 0

    def peak_of(self, work: Callable[[], object]) -> int:
        """Do the work; return the peak of allocated memory in bytes, all loaded models included."""
        self.memory.reset_peak()
        work()
        return self.memory.peak()

    def record(self, key: str, needed: int) -> None:
        """Tell others that a model or a group needs at least `needed` bytes."""
        self._record(key, needed=needed)

    def refuse(self, key: str) -> None:
        """Tell others that a model or a group does not fit into this card.

        It tells nothing if other processes hold memory of the card.
        """
        left, size = self.memory.available(), self.card.memory_bytes
        if left < _OWN_SHARE * size:
            log.warning(
                "other processes hold memory of this card: %.1f of %.1f GiB are left",
                left / 2**30,
                size / 2**30,
            )
            return
        self._record(key, too_small=size)

    def _record(self, key: str, *, needed: int = 0, too_small: int = 0) -> None:
        self._database.run(
            lambda session: memory_needs.record_need(
                session,
                key=key,
                tuning=self.card.tuning,
                device=self._device_class,
                needed=needed,
                too_small=too_small,
            )
        )
