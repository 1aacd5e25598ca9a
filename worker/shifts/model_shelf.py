"""The shelf of one worker process: its warm models, and the engine of the group in work.

Loads torch: a parent that does not fork and tests with a fake engine import `shelf` alone.
"""

from functools import partial
from pathlib import Path

from imagemill.db.models.components import find_weights
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.inputs import fetch_input
from imagemill.worker.engine import Engine
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.profiled import ProfiledEngine
from imagemill.worker.models.loader import WarmModels
from imagemill.worker.shifts.batch_sizes import Agreements


class ModelShelf:
    """Engines of registered models. One engine is kept: that of the group last rendered.

    `trace` is a file for a profile of the first engine.
    """

    def __init__(
        self,
        settings: Settings,
        agreements: Agreements,
        storage: Storage,
        *,
        trace: Path | None = None,
    ) -> None:
        self._settings = settings
        self._agreements = agreements
        self._inputs = partial(fetch_input, storage)
        self._registry = load_registry(settings)
        self._models = WarmModels(settings)
        self._engine: tuple[int, Engine] | None = None
        self._trace = trace

    @property
    def loaded(self) -> tuple[str, ...]:
        """The weights digests of the warm models."""
        return self._models.digests

    def engine(self, choice: GroupChoice) -> Engine:
        """The group's engine: the one in work, or a new one on a warm or newly loaded model."""
        if self._engine is not None and self._engine[0] == choice.id:
            return self._engine[1]
        self._engine = None
        engine = self._open(choice, self._agreements.slots(choice.id))
        agreed = self._agreements.agree(choice.id, engine.slots)
        if agreed != engine.slots:
            engine = self._open(choice, agreed)
        self._agreements.certify(choice, engine)
        if self._trace is not None:
            engine = ProfiledEngine(engine, self._trace)
            self._trace = None
        self._engine = choice.id, engine
        return engine

    def shrink(self, choice: GroupChoice) -> bool:
        """Forget the group's engine. The next one has half as many slots, but at least one."""
        if self._engine is None or self._engine[0] != choice.id:
            return False
        slots = self._engine[1].slots
        self._engine = None
        self._agreements.shrink(choice.id, max(1, slots // 2))
        return slots > 1

    def _open(self, choice: GroupChoice, slots: int | None) -> Engine:
        entry = find_weights(
            self._registry,
            choice.document["weights_digest"],
            name=choice.model_name,
        )
        model = self._models.get(entry)
        return open_engine(model, choice.document, self._settings, slots, inputs=self._inputs)
