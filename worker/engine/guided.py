"""The guided loop: B fixed slots over one denoiser, continuous batching.

Every denoiser call has the same shape (2B rows with guidance: B negative, then B prompt, as
diffusers orders them), whatever is in the slots; an empty slot is a constant row. A slot's
image keeps its own sampler, steps, guidance scale and noise.
"""

import time
from collections.abc import Collection, Sequence

import torch

from db.errors import ImagemillError, ModelError, OutOfMemory, RenderError, first_line
from db.specs import ImageSpec
from db.states import Outcome
from worker.adapters import WornAdapter, wear
from worker.engine import Failed, Rendered
from worker.engine.conditioning import Conditioner, NoText, texts_of
from worker.engine.denoiser import Denoiser
from worker.engine.pictures import Decoder, Picture
from worker.engine.slot import Slot, begin
from worker.engine.starts import Starts
from worker.environment import Environment, Shapes
from worker.models import Model


class GuidedEngine:
    """The `Engine` of models with a U-Net: conditioned on text (SD, SDXL), or on nothing.

    `guided` is the group's; a model that knows no guidance ignores it.
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
        self._model = model
        self._shapes = shapes
        self._guided = guided
        self._environment = environment
        self._starts = starts
        self._adapters = adapters
        self._conditioner: Conditioner | NoText = NoText()
        if "text_encoder" in model.components:
            self._conditioner = Conditioner(model, rows=shapes.prompts, windows=shapes.windows)
        self._denoiser = Denoiser(
            model,
            shapes=shapes,
            guided=guided and model.facts.guided,
            cells=starts.cells,
            empty=self._conditioner.blank(),
        )
        self._decoder = Decoder(model, rows=shapes.pictures)
        self._slots: list[Slot | None] = [None] * shapes.slots
        self._failed: list[Failed] = []
        self._steps = 0

    @property
    def environment(self) -> Environment:
        """What the pixels of this engine depend on."""
        return self._environment

    @property
    def slots(self) -> int:
        """B, the images of one denoiser call."""
        return self._shapes.slots

    @property
    def steps(self) -> int:
        """Denoiser calls so far."""
        return self._steps

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""
        return bool(self._failed) or any(slot is not None for slot in self._slots)

    @property
    def tickets(self) -> tuple[int | None, ...]:
        """Whose image is in each slot; None where it is empty."""
        return tuple(None if slot is None else slot.ticket for slot in self._slots)

    def room(self) -> int:
        """How many slots are free."""
        return self._slots.count(None)

    @torch.inference_mode()
    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Put images into free slots; see `Engine`."""
        if len(images) > self.room():
            raise ValueError(f"{len(images)} images for {self.room()} free slots")
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
        """One denoiser call for every slot; see `Engine`."""
        active = [(row, slot) for row, slot in enumerate(self._slots) if slot is not None]
        if not active:
            return self._take_failed()
        started = time.perf_counter()
        wear(self._model, self._adapters)
        try:
            outputs = self._denoiser(self._slots)
            self._steps += 1
            self._advance(active, outputs)
            finished = [(row, slot) for row, slot in active if slot.finished]
            pictures = self._decoder.pictures([slot.latents for _, slot in finished])
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"out of memory with {self.slots} slots: {error}") from error
        except RuntimeError as error:
            raise RenderError(f"the forward pass failed: {first_line(error)}") from error
        self._charge(time.perf_counter() - started)
        ended = self._take_failed()
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
        kept = []
        for failure in self._failed:
            if failure.ticket in tickets:
                dropped.append(failure.ticket)
            else:
                kept.append(failure)
        self._failed = kept
        return dropped

    def abandon(self) -> list[int]:
        """Drop every image."""
        tickets = [slot.ticket for slot in self._slots if slot is not None]
        tickets += [failure.ticket for failure in self._failed]
        return self.cancel(tickets)

    def _encode_together(self, specs: Sequence[ImageSpec]) -> None:
        """Encode all prompts in as few passes as possible; `_place` finds them."""
        texts = [text for spec in specs for text in texts_of(spec) if text is not None]
        try:
            self._conditioner.conditions(texts)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of one of them; which one is found when each is placed
            return

    def _place(self, ticket: int, spec: ImageSpec) -> None:
        prompt, negative = texts_of(spec)
        try:
            self._check(spec)
            texts = [prompt] if negative is None else [prompt, negative]
            conditions = self._conditioner.conditions(texts)
            slot = begin(
                ticket=ticket,
                spec=spec,
                model=self._model,
                starts=self._starts,
                prompt=conditions[0],
                negative=None if negative is None else conditions[1],
                cut=self._conditioner.cut(prompt),
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # one image's fault, whatever it is, is not its neighbours'
            self._failed.append(Failed(ticket=ticket, error=_readable(error)))
            return
        self._slots[self._slots.index(None)] = slot

    def _check(self, spec: ImageSpec) -> None:
        wanted = (spec.width, spec.height, spec.guided, spec.windows)
        shapes = self._shapes
        here = (shapes.width, shapes.height, self._guided, shapes.windows)
        if wanted != here:
            raise ModelError(f"image of {wanted} in an engine of {here}: not of this group")

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
                self._failed.append(Failed(ticket=slot.ticket, error=_readable(error)))

    def _take_failed(self) -> list[Rendered | Failed]:
        failed: list[Rendered | Failed] = list(self._failed)
        self._failed.clear()
        return failed

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
