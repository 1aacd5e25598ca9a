"""What an engine around another engine passes on."""

from typing import TYPE_CHECKING, Generic, TypeVar

from imagemill.worker.engine import Engine

if TYPE_CHECKING:
    from imagemill.worker.models.environment import Environment

Inner = TypeVar("Inner", bound=Engine)


class WrappedEngine(Generic[Inner]):
    """The part of an `Engine` that only asks `inner`."""

    def __init__(self, inner: Inner) -> None:
        self._inner = inner

    @property
    def environment(self) -> "Environment":
        """What the inner engine's pixels depend on."""
        return self._inner.environment

    @property
    def slots(self) -> int:
        """B, the number of images in one denoiser call."""
        return self._inner.slots

    @property
    def refined(self) -> bool:
        """Whether the model has a refiner."""
        return self._inner.refined

    @property
    def steps(self) -> int:
        """Denoiser calls so far."""
        return self._inner.steps
