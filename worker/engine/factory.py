"""Which engine renders a group."""

from collections.abc import Mapping
from typing import Any

from imagemill.db.settings import Settings
from imagemill.worker.engine import Engine
from imagemill.worker.engine.generic.engine import open_generic_engine
from imagemill.worker.engine.guided.factory import open_guided_engine
from imagemill.worker.engine.inputs import Inputs
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

    `slots` is B; the setting `slots`, else a default for the device, if not given. `inputs`
    fetches init images and masks by digest. The setting `batches` says whether images join and
    leave as slots come free, or stay in micro-batches whose composition is recorded. A
    `ModelError` if the group is not the model's.
    """
    if model.kind == "generic":
        return open_generic_engine(model, group, settings, slots)
    return open_guided_engine(model, group, settings, slots, inputs=inputs)
