"""Recorded micro-batches: an engine is filled once, and its slots keep their images to the end.

This is for devices on which an image's bits depend on its neighbours in the batch. No image joins
a micro-batch that is under way. A cancelled image is computed to the end all the same, so that
its neighbours get the bits that they would have got with it. An image's pixels then depend on its
request, the environment and the composition only, and the composition is kept with each image.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from imagemill.db.compositions import Composition
from imagemill.db.errors import RenderError
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed, PassFailed, Rendered
from imagemill.worker.engine.wrapped_engine import WrappedEngine


class SlottedEngine(Engine, Protocol):
    """An engine that puts each image into the lowest free slot and leaves it there."""

    @property
    def tickets(self) -> tuple[int | None, ...]:
        """The ticket of each slot's image; None for an empty slot."""


class RecordedEngine(WrappedEngine[SlottedEngine]):
    """An `Engine` around `inner`, which is filled only while it is empty.

    `inner` must encode and decode each image by itself: a composition fixes only which images
    share the denoiser's calls.
    """

    def __init__(self, inner: SlottedEngine) -> None:
        super().__init__(inner)
        self._wanted: set[int] = set()
        self._composition: Composition | None = None

    @property
    def busy(self) -> bool:
        """Whether an image is under way that has not been cancelled."""
        return bool(self._wanted)

    def room(self) -> int:
        """The number of slots; 0 while a micro-batch is under way."""
        return 0 if self._wanted else self.slots

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Begin a micro-batch of these images; see `Engine`.

        Images that can't start are not in the composition: they never reach the denoiser.
        """
        if len(images) > self.room():
            raise ValueError(f"{len(images)} images for {self.room()} free slots")
        if not images:
            return
        self._wanted = {ticket for ticket, _ in images}
        self._inner.admit(images)
        specs = dict(images)
        placed = [ticket for ticket in self._inner.tickets if ticket is not None]
        self._composition = Composition.of(
            [(ticket, specs[ticket]) for ticket in placed], slots=self.slots
        )

    def step(self) -> list[Rendered | Failed]:
        """One denoiser call for the micro-batch; see `Engine`.

        A pass that raises fails them all: the others would not have the bits of their composition.
        """
        ended: list[Rendered | Failed] = []
        try:
            results = self._inner.step()
        except PassFailed as error:
            raise RenderError(error.message) from error
        for result in results:
            if result.ticket not in self._wanted:
                continue
            self._wanted.remove(result.ticket)
            if isinstance(result, Rendered):
                ended.append(replace(result, composition=self._composition))
            else:
                ended.append(result)
        self._end_unless_wanted()
        return ended

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here.

        Their slots are computed on as long as another image of the micro-batch is wanted.
        """
        dropped = sorted(self._wanted.intersection(tickets))
        self._wanted.difference_update(dropped)
        self._end_unless_wanted()
        return dropped

    def abandon(self) -> list[int]:
        """Drop every image, and end the micro-batch."""
        return self.cancel(set(self._wanted))

    def _end_unless_wanted(self) -> None:
        if not self._wanted:
            self._inner.abandon()
