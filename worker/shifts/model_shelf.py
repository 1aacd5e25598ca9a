"""The shelf of one worker process: its warm models, and the engine of the group in work.

Loads torch: a parent that does not fork and tests with a fake engine import `shelf` alone.
"""

import logging
from functools import partial
from pathlib import Path

from imagemill.db.errors import ImagemillError, OutOfMemory
from imagemill.db.models.components import find_weights
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.inputs import fetch_input
from imagemill.worker.engine import Engine
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.probe import probe
from imagemill.worker.engine.profiled_engine import ProfiledEngine
from imagemill.worker.models.loader import WarmModels
from imagemill.worker.models.model import Model
from imagemill.worker.models.shared_kernels import SharedKernels
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.memory_needs import MemoryNeeds

log = logging.getLogger(__name__)


class ModelShelf:
    """Engines of registered models. One engine is kept: that of the group last rendered.

    `needs` shares what models need of the device's memory; None on a CPU. `trace` is a file for a
    profile of the first engine.
    """

    def __init__(
        self,
        settings: Settings,
        agreements: Agreements,
        storage: Storage,
        *,
        needs: MemoryNeeds | None = None,
        trace: Path | None = None,
    ) -> None:
        self._settings = settings
        self._agreements = agreements
        self._inputs = partial(fetch_input, storage)
        self._kernels = SharedKernels(settings, storage)
        self._registry = load_registry(settings)
        self._needs = needs
        self._models = WarmModels(settings, None if needs is None else needs.memory)
        self._engine: tuple[int, Engine] | None = None
        self._trace = trace

    @property
    def loaded(self) -> tuple[str, ...]:
        """The weights digests of the warm models."""
        return self._models.digests

    def engine(self, choice: GroupChoice) -> Engine:
        """The group's engine: the one in work, or a new one on a warm or newly loaded model."""
        if self._engine is not None and self._engine[0] == choice.id:
            self._kernels.share(self._engine[1].environment)
            return self._engine[1]
        self._engine = None
        try:
            engine = self._agreed(choice)
        except OutOfMemory:
            if not self._models.drop_others(_digest(choice)):
                raise
            engine = None
        if engine is None:
            # Not in the handler above: its exception holds what the first try allocated.
            log.info("%s has no room beside other models, which are unloaded", choice.model_name)
            engine = self._agreed(choice)
        self._kernels.fetch(engine.environment)
        self._agreements.certify(choice, engine)
        if engine.steps:
            self._kernels.share(engine.environment)
        if self._trace is not None:
            engine = ProfiledEngine(engine, self._trace)
            self._trace = None
        self._engine = choice.id, engine
        return engine

    def shrink(self, choice: GroupChoice) -> bool:
        """Forget the group's engine. The next one has half as many slots, but at least one.

        With one slot, other models are unloaded instead, if there are any.
        """
        if self._engine is None or self._engine[0] != choice.id:
            return False
        slots = self._engine[1].slots
        self._engine = None
        if slots == 1:
            return self._models.drop_others(_digest(choice))
        self._agreements.shrink(choice.id, slots // 2)
        return True

    def refuse(self, choice: GroupChoice) -> bool:
        """See `Shelf.refuse`. A model that could not even be loaded fits in none of its groups."""
        if self._needs is None:
            return False
        digest = _digest(choice)
        self._needs.refuse(choice.key if digest in self._models.digests else digest)
        return True

    def _agreed(self, choice: GroupChoice) -> Engine:
        """A new engine with the B that counts for the group."""
        entry = find_weights(self._registry, _digest(choice), name=choice.model_name)
        model = self._models.get(entry, self._agreements.precision(entry))
        self._measure(choice, model)
        engine = self._open(choice, model, self._agreements.slots(choice.id))
        agreed = self._agreements.agree(choice.id, engine.slots)
        return engine if agreed == engine.slots else self._open(choice, model, agreed)

    def _open(self, choice: GroupChoice, model: Model, slots: int | None) -> Engine:
        return open_engine(model, choice.document, self._settings, slots, inputs=self._inputs)

    def _measure(self, choice: GroupChoice, model: Model) -> None:
        """Share what the model needs, and the group with one slot, unless that is known.

        A model that draws nothing without a picture can't be tried, and compiling for one slot
        takes too long: then only the need of the weights is known.
        """
        needs, digest = self._needs, model.weights_digest
        if needs is None or needs.is_measured(choice.key):
            return
        size = self._models.size(digest)
        needs.record(digest, size)
        if model.tuning.compiled or model.tuning.compiled_regions:
            return
        others = needs.memory.allocated() - size
        try:
            peak = needs.peak_of(
                lambda: probe(self._open(choice, model, 1), choice.document, model)
            )
        except OutOfMemory:
            raise
        except ImagemillError as error:
            log.info("the memory that %s needs is not known: %s", choice.model_name, error)
        else:
            needs.record(choice.key, peak - others)


def _digest(choice: GroupChoice) -> str:
    return str(choice.document["weights_digest"])
