"""The engine: B fixed slots, each one image of its own; a finished image's slot is filled again
(or, with recorded batches, all slots once the last one is finished).

No torch here: the shift loop is written and tested against this interface. `factory.open_engine`
makes the real one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from imagemill.db.compositions import Composition
from imagemill.db.errors import ImagemillError
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome

if TYPE_CHECKING:
    from imagemill.worker.models.environment import Environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A finished image.

    `pixels` are height x width x 3, uint8, RGB. `cut` is the part of the prompt beyond the text
    encoder's window. `seconds` is the image's share of the engine's time. `environment` is given
    where it is not the engine's (the decoder retried in fp32), `composition` with
    `batches = "recorded"`: its image ids are the tickets.
    """

    ticket: int
    pixels: npt.NDArray[np.uint8]
    outcome: Outcome
    cut: str | None
    seconds: float
    environment: "Environment | None" = None
    composition: Composition | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """An image that could not be rendered while its neighbours could."""

    ticket: int
    error: ImagemillError


class Engine(Protocol):
    """Renders images of one group. Tickets are the caller's names for them, all different."""

    @property
    def environment(self) -> "Environment":
        """What the pixels of this engine depend on."""

    @property
    def slots(self) -> int:
        """B, the images of one denoiser call; even, except 1."""

    @property
    def refined(self) -> bool:
        """Whether its model has a refiner, for images with a `refiner_start`."""

    @property
    def steps(self) -> int:
        """Denoiser calls so far: while it moves, the engine works."""

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""

    def room(self) -> int:
        """How many more images may be admitted now."""

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Put images (ticket, specification) into free slots.

        At most `room()` of them, all of this engine's group. An image that can't start comes
        back as `Failed` from the next `step`. `OutOfMemory` where the device is full.
        """

    def step(self) -> list[Rendered | Failed]:
        """One denoiser call for every slot, and the images that ended with it.

        `OutOfMemory` or another `RenderError` where the call itself fails: nothing can be said
        about which image did it; `abandon` and render them alone.
        """

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here; returns those that were."""

    def abandon(self) -> list[int]:
        """Drop every image; returns their tickets."""
