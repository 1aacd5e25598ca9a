"""What both engines keep: fixed shapes, a count of calls, and the images that ended."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from imagemill.db.errors import ImagemillError, ModelError, RenderError, first_line
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.models.environment import Environment, Shapes
from imagemill.worker.models.model import Model


class ShapedEngine:
    """The part of an `Engine` that does not depend on how it renders."""

    def __init__(
        self, model: Model, *, shapes: Shapes, guided: bool, environment: Environment
    ) -> None:
        self._model = model
        self._shapes = shapes
        self._guided = guided
        self._environment = environment
        self._ended: list[Rendered | Failed] = []
        self._steps = 0

    @property
    def environment(self) -> Environment:
        """What this engine's pixels depend on."""
        return self._environment

    @property
    def slots(self) -> int:
        """B, the number of images in one denoiser call."""
        return self._shapes.slots

    @property
    def steps(self) -> int:
        """Denoiser calls so far. A pipeline may make several for one sampling step."""
        return self._steps

    def _take_ended(self) -> list[Rendered | Failed]:
        """The images that ended since the last call."""
        ended = self._ended
        self._ended = []
        return ended

    def _drop_ended(self, tickets: Collection[int]) -> list[int]:
        """Forget these images if they ended; the tickets of those that did."""
        dropped = [result.ticket for result in self._ended if result.ticket in tickets]
        self._ended = [result for result in self._ended if result.ticket not in tickets]
        return dropped


def check_room(images: Sequence[tuple[int, ImageSpec]], room: int) -> None:
    """Refuse more images than an engine has room for, by a `ValueError`."""
    if len(images) > room:
        raise ValueError(f"{len(images)} images for {room} free slots")


def check_weights(model: Model, group: Mapping[str, Any]) -> None:
    """Refuse a group of other weights than the model's, by a `ModelError`."""
    if group["weights_digest"] != model.weights_digest:
        raise ModelError(
            f"the group's weights are {group['weights_digest'][:10]}…, model {model.name} is "
            f"{model.weights_digest[:10]}…"
        )


def own_error(error: Exception) -> ImagemillError:
    """What an image failed of by itself, as one line: libraries raise errors of any kind."""
    if isinstance(error, ImagemillError):
        return error
    return RenderError(f"{type(error).__name__}: {first_line(error)}")
