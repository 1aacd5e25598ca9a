"""Opens a guided engine: chooses its shapes and environment and, on a GPU, finds its B."""

from collections.abc import Mapping
from typing import Any

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.engine.guided.engine import GuidedEngine
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.inputs import Inputs, no_inputs
from imagemill.worker.engine.probe import probe
from imagemill.worker.engine.recorded_engine import RecordedEngine
from imagemill.worker.engine.shaped_engine import check_weights
from imagemill.worker.engine.shapes import by_trying, choose_shapes, find_slots
from imagemill.worker.models.adapters import GroupAdapter, activate_adapters, find_adapters
from imagemill.worker.models.environment import describe_environment
from imagemill.worker.models.model import Model


def open_guided_engine(
    model: Model,
    group: Mapping[str, Any],
    settings: Settings,
    slots: int | None,
    *,
    inputs: Inputs | None,
) -> GuidedEngine | RecordedEngine:
    """See `engine.factory.open_engine`. On a GPU, B is found by trying if nobody has set it."""
    check_weights(model, group)
    width, height = group["width"], group["height"]
    multiple = model.facts.size_multiple
    if width % multiple or height % multiple:
        raise ModelError(f"{width}x{height}: model {model.name} needs multiples of {multiple}")

    def build(count: int | None) -> GuidedEngine:
        return _build(model, group, settings, count, inputs=inputs or no_inputs)

    if by_trying(model.device, settings, slots) and not model.facts.inpainting:
        slots = find_slots(lambda count: probe(build(count), group, model))
    engine = build(slots)
    return RecordedEngine(engine) if settings.batches == "recorded" else engine


def _build(
    model: Model,
    group: Mapping[str, Any],
    settings: Settings,
    slots: int | None,
    *,
    inputs: Inputs,
) -> GuidedEngine:
    adapters: tuple[GroupAdapter, ...] = ()
    if group["adapters"]:
        adapters = find_adapters(group["adapters"], load_registry(settings))
    activate_adapters(model, adapters)
    shapes = choose_shapes(device=model.device, group=group, settings=settings, slots=slots)
    environment = describe_environment(
        device=model.device,
        precision=model.precision,
        vae_precision=model.vae_precision,
        tuning=model.tuning,
        shapes=shapes,
        batches=settings.batches,
        group=group,
        adapters=[{"digest": adapter.digest, "weight": adapter.weight} for adapter in adapters],
    )
    initial_latents = InitialLatents(
        model,
        width=shapes.width,
        height=shapes.height,
        inputs=inputs,
        max_pixels=settings.max_pixels,
    )
    return GuidedEngine(
        model,
        shapes=shapes,
        guided=group["guided"],
        environment=environment,
        initial_latents=initial_latents,
        adapters=adapters,
    )
