"""Driving an engine in tests."""

from collections.abc import Sequence
from typing import Any

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.models.model import Model

CAPTIONS = (
    "a red circle on a blue background",
    "two green stars on a white background",
    "a yellow heart on a black background",
    "an orange square on a purple background",
)


def spec_for(model: Model, **values: Any) -> ImageSpec:
    """A specification of a small, quick image, with some values changed."""
    defaults = {
        "model": model.name,
        "weights_digest": model.weights_digest,
        "prompt": CAPTIONS[0],
        "seed": 1,
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance_scale": 5.0,
        "sampler": "ddim",
    }
    return ImageSpec(**(defaults | values))


def small_spec_for(model: Model, **values: Any) -> ImageSpec:
    """The same for 32 x 32 pixels, where a pass takes a third of the time."""
    return spec_for(model, **({"width": 32, "height": 32} | values))


def render(engine: Engine, specs: Sequence[ImageSpec]) -> list[Rendered | Failed]:
    """Every specification's result in their order, slots filled again as they come free."""
    waiting = list(enumerate(specs))
    results: dict[int, Rendered | Failed] = {}
    while waiting or engine.busy:
        room = engine.room()
        if room and waiting:
            engine.admit(waiting[:room])
            waiting = waiting[room:]
        for result in engine.step():
            results[result.ticket] = result
    return [results[ticket] for ticket in range(len(specs))]


def pixels_of(result: Rendered | Failed) -> Any:
    """A rendered image's pixels; a failure is raised."""
    if isinstance(result, Failed):
        raise result.error
    return result.pixels


def hashes(results: Sequence[Rendered | Failed]) -> list[bytes]:
    """Raw pixels, to compare for equality."""
    return [pixels_of(result).tobytes() for result in results]
