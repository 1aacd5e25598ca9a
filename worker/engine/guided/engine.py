"""The guided engine: B fixed slots around one denoiser, with continuous batching.

Every denoiser call has the same shape: B rows, or 2B with guidance (B for the negative prompts,
then B for the prompts, as in diffusers). A row of nobody is constant. So the device always runs
the same kernels, and an image's bits depend neither on its neighbours nor on when it joined.

Each slot's image has its own sampler, steps, guidance scale and noise. Outside its guidance
interval an image needs one row of the 2B: up to 2B images are then under way and share a call. If
the model has a refiner, each call goes to one of the two U-Nets. Images for which a call has no
rows, or which need the other U-Net, wait.
"""

import time
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from imagemill.db.errors import (
    ModelError,
    OutOfMemory,
    RenderError,
    UsageError,
    first_line,
)
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.guided.admission import begin, cohort_key
from imagemill.worker.engine.guided.denoiser import Denoiser
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.guided.rows import rows_needed
from imagemill.worker.engine.guided.slot import Cohort, Slot
from imagemill.worker.engine.passes import packed
from imagemill.worker.engine.pictures import Decoder, Decoding, Picture
from imagemill.worker.engine.shaped_engine import ShapedEngine, check_room, own_error
from imagemill.worker.engine.texts.conditions import Condition, Conditioner, NoText, Text, texts_of
from imagemill.worker.models.adapters import GroupAdapter, activate_adapters
from imagemill.worker.models.environment import Environment, Shapes
from imagemill.worker.models.model import Model


@dataclass(kw_only=True, slots=True)
class _Leaving:
    """Images after their last denoiser call, and their pictures on the way to the host.

    A cancelled image is None.
    """

    slots: list[Slot | None] = field(default_factory=list)
    decodings: list[Decoding] = field(default_factory=list)


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
        initial_latents: InitialLatents,
        adapters: tuple[GroupAdapter, ...],
    ) -> None:
        super().__init__(model, shapes=shapes, guided=guided, environment=environment)
        self._initial_latents = initial_latents
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
        self._slots: list[Slot | None] = [None] * self._denoiser.rows
        self._cohorts: list[Cohort] = []
        self._leaving = _Leaving()
        # On a GPU, pictures are decoded and copied while the host prepares and queues the next
        # denoiser call; a CPU does one thing after another anyway.
        self._overlaps = model.device.type == "cuda"

    @property
    def refined(self) -> bool:
        """Whether the model has a refiner."""
        return self._refiner is not None

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""
        return bool(self._ended) or bool(self._cohorts) or bool(self._leaving.slots)

    @property
    def tickets(self) -> tuple[int | None, ...]:
        """The ticket of each slot's image; None for an empty slot."""
        return tuple(None if slot is None else slot.ticket for slot in self._slots)

    def room(self) -> int:
        """How many images are missing until the next call is full."""
        denoiser, turn = self._turn()
        free = denoiser.rows - sum(rows_needed(cohort, denoiser.rows_per_image) for cohort in turn)
        return min(free // denoiser.rows_per_image, self._slots.count(None))

    @torch.inference_mode()
    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Put images into free slots; see `Engine`."""
        check_room(images, self.room())
        started = time.perf_counter()
        activate_adapters(self._model, self._adapters)
        try:
            self._encode_together([spec for _, spec in images])
            begun: dict[Hashable, Cohort] = {}
            for ticket, spec in images:
                self._place(ticket, spec, begun)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"out of memory: {error}") from error
        self._charge(time.perf_counter() - started)

    @torch.inference_mode()
    def step(self) -> list[Rendered | Failed]:
        """Make one denoiser call for all slots; see `Engine`.

        On a GPU an image comes back from the step after its last one: its picture is fetched
        when the next denoiser call is under way. Without another image there is no such call.
        """
        if not self._cohorts and not self._leaving.slots:
            return self._take_ended()
        started = time.perf_counter()
        activate_adapters(self._model, self._adapters)
        left, self._leaving = self._leaving, _Leaving()
        try:
            if self._cohorts:
                self._step_on()
            pairs = self._arrived(left)
            if not self._overlaps:
                pairs += self._arrived(self._leaving)
                self._leaving = _Leaving()
        except RuntimeError as error:
            # `abandon` then returns the tickets of all of them.
            self._leaving = _Leaving(slots=[*left.slots, *self._leaving.slots])
            if isinstance(error, torch.OutOfMemoryError):
                raise OutOfMemory(f"out of memory with {self.slots} slots: {error}") from error
            raise RenderError(f"the forward pass failed: {first_line(error)}") from error
        self._charge(time.perf_counter() - started, [slot for slot, _ in pairs])
        return [*self._take_ended(), *(self._rendered(slot, picture) for slot, picture in pairs)]

    def _step_on(self) -> None:
        """One denoiser call and one step of those that it was for; what is finished leaves."""
        denoiser, turn = self._turn()
        outputs = denoiser(turn)
        self._steps += 1
        self._advance(turn, outputs)
        finished = self._finished()
        self._cohorts = [cohort for cohort in self._cohorts if not cohort.finished]
        for slot, _ in finished:
            self._slots[slot.place] = None
        self._leaving.slots = [slot for slot, _ in finished]
        self._leaving.decodings = self._decoder.begin([latents for _, latents in finished])

    def _arrived(self, leaving: _Leaving) -> list[tuple[Slot, Picture]]:
        pictures = self._decoder.collect(leaving.decodings)
        pairs = zip(leaving.slots, pictures, strict=True)
        return [(slot, picture) for slot, picture in pairs if slot is not None]

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here."""
        dropped = []
        for cohort in self._cohorts:
            for slot in [slot for slot in cohort.slots if slot.ticket in tickets]:
                dropped.append(slot.ticket)
                self._slots[slot.place] = None
                cohort.leave(slot)
        self._cohorts = [cohort for cohort in self._cohorts if cohort.slots]
        for place, gone in enumerate(self._leaving.slots):
            if gone is not None and gone.ticket in tickets:
                dropped.append(gone.ticket)
                self._leaving.slots[place] = None
        if not any(self._leaving.slots):
            self._leaving = _Leaving()
        return dropped + self._drop_ended(tickets)

    def abandon(self) -> list[int]:
        """Drop every image."""
        here = (*self._slots, *self._leaving.slots)
        tickets = [slot.ticket for slot in here if slot is not None]
        tickets += [result.ticket for result in self._ended]
        return self.cancel(tickets)

    def _denoiser_of(self, unet: Any, empty: Condition) -> Denoiser:
        return Denoiser(
            self._model,
            unet,
            shapes=self._shapes,
            guided=self._guided and self._model.facts.guided,
            cells=self._initial_latents.cells,
            empty=empty,
        )

    def _turn(self) -> tuple[Denoiser, list[Cohort]]:
        """The U-Net that is called next, and the cohorts in that call.

        It is the U-Net whose call has more images; on a tie, the refiner.
        """
        if self._refiner is None:
            return self._denoiser, self._packed(self._cohorts, self._denoiser)
        refining, base = (
            (denoiser, self._packed([c for c in self._cohorts if c.refining is later], denoiser))
            for denoiser, later in ((self._refiner, True), (self._denoiser, False))
        )
        images = [sum(len(cohort.slots) for cohort in turn) for _, turn in (refining, base)]
        return refining if images[0] >= images[1] else base

    def _packed(self, cohorts: Sequence[Cohort], denoiser: Denoiser) -> list[Cohort]:
        """Those of the cohorts that are in the next call."""
        needed = [(cohort, rows_needed(cohort, denoiser.rows_per_image)) for cohort in cohorts]
        return packed(needed, rows=denoiser.rows, passes=self._steps)

    def _finished(self) -> list[tuple[Slot, torch.Tensor]]:
        """The images without a denoiser call left, by place, each with latents (1, channels, …)."""
        found = [
            pair
            for cohort in self._cohorts
            if cohort.finished
            for pair in zip(cohort.slots, torch.split(cohort.latents, 1), strict=True)
        ]
        return sorted(found, key=lambda pair: pair[0].place)

    def _encode_together(self, specs: Sequence[ImageSpec]) -> None:
        """Encode all prompts in as few passes as possible; `_place` finds them in the cache."""
        texts = [text for spec in specs for text in texts_of(spec) if text is not None]
        try:
            self._conditioner.conditions(texts)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # `_place` encodes each prompt alone and so finds the one at fault
            return

    def _place(self, ticket: int, spec: ImageSpec, begun: dict[Hashable, Cohort]) -> None:
        """Let an image begin. It joins the cohort of its `cohort_key` that has just `begun`."""
        prompt, negative = texts_of(spec)
        try:
            self._check(spec)
            texts = [prompt] if negative is None else [prompt, negative]
            conditions = self._conditioner.conditions(texts)
            refined = None
            if spec.refiner_start is not None:
                refined = self._refined(prompt, negative)
            slot = Slot(
                ticket=ticket,
                spec=spec,
                place=self._slots.index(None),
                prompt=conditions[0],
                negative=None if negative is None else conditions[1],
                cut=self._conditioner.cut(prompt),
            )
            key = cohort_key(spec)
            joined = begun.get(key)
            cohort = begin(slot, self._model, self._initial_latents, cohort=joined, refined=refined)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any error of one image must not touch its neighbours
            self._ended.append(Failed(ticket=ticket, error=own_error(error)))
            return
        self._slots[slot.place] = slot
        if cohort is not joined:
            cohort.waiting_since = self._steps
            self._cohorts.append(cohort)
            if key is not None:
                begun[key] = cohort

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
        turn: Sequence[Cohort],
        outputs: Sequence[tuple[torch.Tensor | None, torch.Tensor]],
    ) -> None:
        failed = []
        for cohort, (negative, prompt) in zip(turn, outputs, strict=True):
            try:
                cohort.advance(negative, prompt)
                cohort.waiting_since = self._steps
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # as in `_place`; each would have met it alone
                failed.append(cohort)
                for slot in cohort.slots:
                    self._slots[slot.place] = None
                    self._ended.append(Failed(ticket=slot.ticket, error=own_error(error)))
        self._cohorts = [cohort for cohort in self._cohorts if cohort not in failed]

    def _charge(self, seconds: float, ended: Sequence[Slot] = ()) -> None:
        """Share the time between the images under way and those that have just `ended`."""
        here = (*self._slots, *self._leaving.slots, *ended)
        sharers = [slot for slot in here if slot is not None]
        for slot in sharers:
            slot.seconds += seconds / len(sharers)

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
