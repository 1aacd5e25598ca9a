"""What a worker process owns, and each of its shifts uses."""

from dataclasses import dataclass, field

from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.worker.shifts.stop_reason import Drain, MemoryLimit, NoDrain, NoMemoryLimit


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerContext:
    """The connections and the settings of one worker process, and what may tell it to stop.

    `worker_id` is its row in `workers`. Its shifts work on the route of its settings.
    """

    database: Database
    storage: Storage
    settings: Settings
    worker_id: int
    drain: Drain = field(default_factory=NoDrain)
    memory_limit: MemoryLimit = field(default_factory=NoMemoryLimit)

    @property
    def route(self) -> str:
        """The route of this worker."""
        return self.settings.route
