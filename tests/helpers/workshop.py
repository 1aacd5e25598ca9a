"""A worker's shift in this process: a mill's database, a folder, and fake engines.

`Workshop.shift()` does one shift and returns its report. Faults of the store are put in front of
the folder with `FaultyStore`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from imagemill.db.queries.tallies import Counts
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage, StoredObject
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.shifts.shift import AvoidedGroups, Shift, ShiftReport
from imagemill.worker.shifts.worker_context import WorkerContext
from tests.helpers.fake_engine import FakeShelf
from tests.helpers.mill import Mill


def quick_settings(**values: Any) -> Settings:
    """Settings for tests: no pauses, and a lease that outlives a pause of a busy machine."""
    defaults = {
        "lease_seconds": 30.0,
        "heartbeat_seconds": 0.1,
        "hang_seconds": 60.0,
        "shift_seconds": 120.0,
        "drain_seconds": 2.0,
        "retry_seconds": 0.0,
    }
    return Settings.load(**(defaults | values))


class FaultyStore:
    """A store whose first `put`s meet `faults` in order: an error to raise, or a call to make."""

    def __init__(self, inner: Storage, faults: Iterable[Exception | Callable[[], None]]) -> None:
        self._inner = inner
        self._faults = list(faults)
        self._lock = threading.Lock()
        self.puts = 0

    @property
    def uri(self) -> str:
        return self._inner.uri

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        with self._lock:
            self.puts += 1
            fault = self._faults.pop(0) if self._faults else None
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            fault()
        return self._inner.put(key, body, media_type=media_type)

    def get(self, key: str) -> bytes:
        return self._inner.get(key)

    def stat(self, key: str) -> StoredObject | None:
        return self._inner.stat(key)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def object_uri(self, key: str) -> str:
        return self._inner.object_uri(key)

    def leftovers(self) -> Iterator[StoredObject]:
        return self._inner.leftovers()

    def discard(self, leftover: StoredObject) -> None:
        self._inner.discard(leftover)

    def probe(self) -> str:
        return self._inner.probe()


class DrainWhen:
    """The notice to drain, given as soon as a condition holds when it is asked for."""

    def __init__(self, told: Callable[[], bool]) -> None:
        self._told = told
        self._since: float | None = None

    @property
    def since(self) -> float | None:
        if self._told() and self._since is None:
            self._since = time.monotonic()
        return self._since


class Workshop:
    """One worker: its database, store, shelf and settings. Each may be replaced between shifts."""

    def __init__(self, mill: Mill, folder: Path) -> None:
        self.mill = mill
        folder.mkdir()
        self.folder = FolderStorage(folder)
        self.storage: Storage = self.folder
        self.shelf = FakeShelf()
        self.settings = quick_settings()
        self.avoided = AvoidedGroups()
        self.draining: Callable[[], bool] = lambda: False

    def shift(self) -> ShiftReport:
        context = WorkerContext(
            database=self.mill.database,
            storage=self.storage,
            settings=self.settings,
            worker_id=self.mill.worker_id,
            drain=DrainWhen(self.draining),
        )
        return Shift(context, shelf=self.shelf, avoided=self.avoided).work()

    def counts(self, job_id: int) -> Counts:
        return self.mill.counts(job_id)

    def files(self) -> list[str]:
        """The keys of what is stored."""
        return sorted(found.key for found in self.folder.list())

    @property
    def passes(self) -> list[list[str]]:
        """The prompts of every forward pass so far."""
        return [prompts for engine in self.shelf.opened for prompts in engine.passes]
