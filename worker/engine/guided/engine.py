"""The guided engine: B fixed slots around one denoiser, with continuous batching.

Every denoiser call has the same shape: B rows, or 2B with guidance (B for the negative prompts,
then B for the prompts, as in diffusers). An empty slot is a constant row. So the device always
runs the same kernels, and an image's bits depend neither on its neighbours nor on when it joined.

Each slot's image has its own sampler, steps, guidance scale and noise. If the model has a refiner,
each call goes to one of the two U-Nets; images that need the other one wait.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from imagemill.db.errors import (
    ImagemillError,
    ModelError,
    OutOfMemory,
    RenderError,
    UsageError,
    first_line,
)
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.guided.conditions import Condition, Conditioner, NoText, Text, texts_of
from imagemill.worker.engine.guided.denoiser import Denoiser
from imagemill.worker.engine.guided.initial_latents import Starts
from imagemill.worker.engine.guided.slot import Slot, begin
from imagemill.worker.engine.pictures import Decoder, Picture
from imagemill.worker.engine.shaped_engine import ShapedEngine, check_room
from imagemill.worker.models.adapters import WornAdapter, wear
from imagemill.worker.models.environment import Environment, Shapes
from imagemill.worker.models.model import Model


class GuidedEngine(ShapedEngine):
    """The `Engine` of models with a U-Net, conditioned on text (SD, SDXL) or on nothing.

    `guided` comes from the group; a model without guidance ignores it.
    """

    def __init__(
        self,
        model: Model,
        *,
        shapes: Shapes,
        guided: bool,
        environment: Environment,
        starts: Starts,
        adapters: tuple[WornAdapter, ...],
    ) -> None:
        super().__init__(model, shapes=shapes, guided=guided, environment=environment)
        self._starts = starts
        self._adapters = adapters
        self._conditioner: Conditioner | NoText = NoText()
        if "text_encoder" in model.components:
            self._conditioner = Conditioner(model, rows=shapes.prompts, windows=shapes.windows)
        self._denoiser = self._denoiser_of(model.components["unet"], self._conditioner.blank())
        self._refiner: Denoiser | None = None
        if model.refiner is not None:
            empty = self._conditioner.for_refiner(self._conditioner.blank())
            self._refiner = self._denoiser_of(model.refiner, empty)
        self._decoder = Decoder(model, rows=shapes.pictures)
        self._slots: list[Slot | None] = [None] * shapes.slots

    @property
    def refined(self) -> bool:
        """Whether the model has a refiner."""
        return self._refiner is not None

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""
        return bool(self._ended) or any(slot is not None for slot in self._slots)

    @property
    def tickets(self) -> tuple[int | None, ...]:
        """The ticket of each slot's image; None for an empty slot."""
        return tuple(None if slot is None else slot.ticket for slot in self._slots)

    def room(self) -> int:
        """The number of free slots."""
        return self._slots.count(None)

    @torch.inference_mode()
    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Put images into free slots; see `Engine`."""
        check_room(images, self.room())
        started = time.perf_counter()
        wear(self._model, self._adapters)
        try:
            self._encode_together([spec for _, spec in images])
            for ticket, spec in images:
                self._place(ticket, spec)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"out of memory: {error}") from error
        self._charge(time.perf_counter() - started)

    @torch.inference_mode()
    def step(self) -> list[Rendered | Failed]:
        """Make one denoiser call for all slots; see `Engine`."""
        if all(slot is None for slot in self._slots):
            return self._take_ended()
        started = time.perf_counter()
        wear(self._model, self._adapters)
        denoiser, slots = self._turn()
        active = [(row, slot) for row, slot in enumerate(slots) if slot is not None]
        try:
            outputs = denoiser(slots)
            self._steps += 1
            self._advance(active, outputs)
            finished = [(row, slot) for row, slot in active if slot.finished]
            pictures = self._decoder.pictures([slot.latents for _, slot in finished])
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"out of memory with {self.slots} slots: {error}") from error
        except RuntimeError as error:
            raise RenderError(f"the forward pass failed: {first_line(error)}") from error
        self._charge(time.perf_counter() - started)
        ended = self._take_ended()
        for (row, slot), picture in zip(finished, pictures, strict=True):
            self._slots[row] = None
            ended.append(self._rendered(slot, picture))
        return ended

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here."""
        dropped = []
        for row, slot in enumerate(self._slots):
            if slot is not None and slot.ticket in tickets:
                dropped.append(slot.ticket)
                self._slots[row] = None
        return dropped + self._drop_ended(tickets)

    def abandon(self) -> list[int]:
        """Drop every image."""
        tickets = [slot.ticket for slot in self._slots if slot is not None]
        tickets += [result.ticket for result in self._ended]
        return self.cancel(tickets)

    def _denoiser_of(self, unet: Any, empty: Condition) -> Denoiser:
        return Denoiser(
            self._model,
            unet,
            shapes=self._shapes,
            guided=self._guided and self._model.facts.guided,
            cells=self._starts.cells,
            empty=empty,
        )

    def _turn(self) -> tuple[Denoiser, list[Slot | None]]:
        """The U-Net that is called now, and the slots for it.

        It is the U-Net that more images wait for; on a tie, the refiner.
        """
        if self._refiner is None:
            return self._denoiser, self._slots
        here = [slot for slot in self._slots if slot is not None]
        refining = 2 * sum(slot.refining for slot in here) >= len(here)
        turn = [slot if slot and slot.refining is refining else None for slot in self._slots]
        return (self._refiner if refining else self._denoiser), turn

    def _encode_together(self, specs: Sequence[ImageSpec]) -> None:
        """Encode all prompts in as few passes as possible; `_place` finds them in the cache."""
        texts = [text for spec in specs for text in texts_of(spec) if text is not None]
        try:
            self._conditioner.conditions(texts)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # `_place` encodes each prompt alone and so finds the one at fault
            return

    def _place(self, ticket: int, spec: ImageSpec) -> None:
        prompt, negative = texts_of(spec)
        try:
            self._check(spec)
            texts = [prompt] if negative is None else [prompt, negative]
            conditions = self._conditioner.conditions(texts)
            refined = None
            if spec.refiner_start is not None:
                refined = self._refined(prompt, negative)
            slot = begin(
                ticket=ticket,
                spec=spec,
                model=self._model,
                starts=self._starts,
                prompt=conditions[0],
                negative=None if negative is None else conditions[1],
                cut=self._conditioner.cut(prompt),
                refined=refined,
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any error of one image must not touch its neighbours
            self._ended.append(Failed(ticket=ticket, error=_readable(error)))
            return
        self._slots[self._slots.index(None)] = slot

    def _refined(self, prompt: Text, negative: Text | None) -> tuple[Condition, Condition | None]:
        """The texts as the refiner reads them.

        The base may use zeros for an empty negative prompt; the refiner encodes the empty text.
        """
        conditioner = self._conditioner
        if self._refiner is None:
            raise ModelError(f"model {self._model.name} has no refiner")
        texts = [prompt] if negative is None else [prompt, replace(negative, negative=False)]
        read = [conditioner.for_refiner(each) for each in conditioner.conditions(texts)]
        return read[0], None if negative is None else read[1]

    def _check(self, spec: ImageSpec) -> None:
        wanted = (spec.width, spec.height, spec.guided, spec.windows)
        shapes = self._shapes
        here = (shapes.width, shapes.height, self._guided, shapes.windows)
        if wanted != here:
            raise ModelError(f"image of {wanted} in an engine of {here}: not of this group")
        for name in ("control_image", "reference_image"):
            if getattr(spec, name) is not None:
                raise UsageError(f"the guided engine takes no {name}: kind = 'generic' does")

    def _advance(
        self,
        active: Sequence[tuple[int, Slot]],
        outputs: Sequence[tuple[torch.Tensor | None, torch.Tensor]],
    ) -> None:
        for row, slot in active:
            try:
                slot.advance(*outputs[row])
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # as in `_place`
                self._slots[row] = None
                self._ended.append(Failed(ticket=slot.ticket, error=_readable(error)))

    def _charge(self, seconds: float) -> None:
        under_way = [slot for slot in self._slots if slot is not None]
        for slot in under_way:
            slot.seconds += seconds / len(under_way)

    def _rendered(self, slot: Slot, picture: Picture) -> Rendered:
        outcome = picture.outcome
        if outcome is Outcome.OK and slot.cut is not None:
            outcome = Outcome.TRUNCATED_PROMPT
        return Rendered(
            ticket=slot.ticket,
            pixels=picture.pixels,
            outcome=outcome,
            cut=slot.cut,
            seconds=slot.seconds,
            environment=self._environment.changed(**picture.changes) if picture.changes else None,
        )


def _readable(error: Exception) -> ImagemillError:
    if isinstance(error, ImagemillError):
        return error
    lines = str(error).strip().splitlines()
    return RenderError(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")
