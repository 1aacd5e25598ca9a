"""Chooses the engine that renders a group."""

from collections.abc import Mapping
from typing import Any

from imagemill.db.settings import Settings
from imagemill.worker.engine import Engine
from imagemill.worker.engine.guided.factory import open_guided_engine
from imagemill.worker.engine.inputs import Inputs
from imagemill.worker.engine.slots.engine import open_slot_engine
from imagemill.worker.models.model import Model


def open_engine(
    model: Model,
    group: Mapping[str, Any],
    settings: Settings,
    slots: int | None = None,
    *,
    inputs: Inputs | None = None,
) -> Engine:
    """An engine for one group (`ImageSpec.group()`) of a loaded model.

    `slots` is B. Without it, the setting `slots` counts, and without that a default for the
    device. `inputs` fetches init images and masks by digest. The setting `batches` decides how
    slots are filled: each as soon as it is free, or all together in micro-batches whose
    composition is recorded. Raises `ModelError` if the group does not belong to the model.
    """
    if model.kind == "generic":
        return open_slot_engine(model, group, settings, slots, inputs=inputs)
    return open_guided_engine(model, group, settings, slots, inputs=inputs)
