"""The interface of an engine: B fixed slots, each holding one image.

When an image is finished, its slot takes the next image. With recorded batches, the slots are
filled again only when all of their images are finished.

The number of slots never changes while an engine lives. A GPU library may choose another kernel
for another batch size, and another kernel may give other bits; so empty slots are computed too.

This module imports no torch: the shift loop is written and tested against this interface.
`factory.open_engine` makes a real engine.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from imagemill.db.compositions import Composition
from imagemill.db.errors import ImagemillError, RenderError
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome

if TYPE_CHECKING:
    from imagemill.worker.models.environment import Environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A finished image.

    `pixels` has the shape (height, width, 3), uint8, RGB. `cut` is the part of the prompt that
    did not fit into the text encoder's window, or None. `seconds` is the image's share of the
    engine's time. `environment` is set only if it differs from the engine's, for example because
    the image was decoded again in fp32. `composition` is set with `batches = "recorded"`; its
    image ids are tickets.
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
    """An image that failed by itself; its neighbours go on."""

    ticket: int
    error: ImagemillError


class PassFailed(RenderError):
    """A forward pass raised. `tickets` are the images that were in it; all others can go on."""

    def __init__(self, message: str, *, tickets: Collection[int]) -> None:
        super().__init__(message)
        self.tickets = frozenset(tickets)


class Engine(Protocol):
    """Renders images of one group. A ticket is the caller's own, unique number for an image."""

    @property
    def environment(self) -> "Environment":
        """The software, hardware and settings that this engine's pixels depend on."""

    @property
    def slots(self) -> int:
        """B, the number of images in one denoiser call: 1 or an even number."""

    @property
    def refined(self) -> bool:
        """Whether the model has a refiner, which images with a `refiner_start` need."""

    @property
    def steps(self) -> int:
        """Denoiser calls so far. If it stands still, the engine hangs: the lease watches it."""

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""

    def room(self) -> int:
        """How many more images may be admitted now."""

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Put images, each a ticket and a specification, into free slots.

        There may be at most `room()` of them, and all must belong to this engine's group. An
        image that can't start comes back as `Failed` from the next `step`. Raises `OutOfMemory`
        if the device is full.
        """

    def step(self) -> list[Rendered | Failed]:
        """Make one denoiser call for all slots; return the images that ended with it.

        Raises `OutOfMemory` or another `RenderError` if the call itself fails. Then nobody can
        tell which image caused it: cancel the images of a `PassFailed`, or `abandon` all after
        another error, and render them one by one.
        """

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop the images with these tickets; return the tickets that were here."""

    def abandon(self) -> list[int]:
        """Drop every image; return their tickets."""
