"""The shelf: warm models and the engine of the group in work, for one worker process."""

from collections.abc import Mapping
from typing import Any, Protocol

from db.errors import ModelError
from db.queries.claims import GroupChoice
from db.registry import ModelEntry, load_registry, weights_digest
from db.settings import Settings
from worker.engine import Engine, open_engine


class Shelf(Protocol):
    """Where a shift gets its engines from; tests have one that needs no torch."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The weights digests of the models that need no loading."""

    def engine(self, choice: GroupChoice) -> Engine:
        """An idle engine for a group; a `ModelError` if this worker can't serve it."""


class ModelShelf:
    """Engines of registered models. One engine is kept: that of the group last rendered."""

    def __init__(self, settings: Settings) -> None:
        # Here and not above: who only wants the protocol must not load torch.
        from worker.models import WarmModels  # noqa: PLC0415  # see above

        self._settings = settings
        self._registry = load_registry(settings)
        self._models = WarmModels(settings)
        self._engine: tuple[int, Engine] | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """The weights digests of the warm models."""
        return self._models.digests

    def engine(self, choice: GroupChoice) -> Engine:
        """The group's engine: the one in work, or a new one on a warm or newly loaded model."""
        if self._engine is not None and self._engine[0] == choice.id:
            return self._engine[1]
        self._engine = None
        model = self._models.get(self._entry(choice.model_name, choice.document))
        engine = open_engine(model, choice.document, self._settings)
        self._engine = choice.id, engine
        return engine

    def _entry(self, name: str, group: Mapping[str, Any]) -> ModelEntry:
        """The entry whose weights the group wants: by name, else whichever has the digest."""
        wanted = group["weights_digest"]
        named = [self._registry.models[name]] if name in self._registry.models else []
        for entry in (*named, *self._registry.models.values()):
            try:
                if weights_digest(entry, self._settings) == wanted:
                    return entry
            except ModelError:
                continue  # another model that is not on this machine
        raise ModelError(
            f"no model here has the weights {wanted[:10]}… that the job was submitted with "
            f"({name}); pull that revision, or correct the registry"
        )
