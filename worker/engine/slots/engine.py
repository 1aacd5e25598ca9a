"""The engine for all other diffusers pipelines: a slot is the pipeline's own call for one image.

Every slot runs up to its next denoiser call and waits there. Then the calls of the largest group
that may share a forward pass are made together, as a call for B images; empty places are filled
with constant rows. So the device always runs the same kernels, and an image's bits depend neither
on its neighbours nor on when it joined. All else (text, sampler, decoding) is diffusers' own code
for one image.

Calls that may not share a pass, because their texts differ in length, wait for their own. So that
passes are full all the same, more than B images may be under way: as many as it takes until B of
them wait for the same pass.
"""

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from imagemill.db.errors import (
    ImagemillError,
    ModelError,
    OutOfMemory,
    UsageError,
    first_line,
)
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Failed, PassFailed, Rendered
from imagemill.worker.engine.inputs import Inputs, no_inputs, with_known_picture
from imagemill.worker.engine.passes import missing, next_pass
from imagemill.worker.engine.probe import probe
from imagemill.worker.engine.recorded_engine import RecordedEngine
from imagemill.worker.engine.shaped_engine import (
    ShapedEngine,
    check_room,
    check_weights,
    own_error,
)
from imagemill.worker.engine.shapes import by_trying, choose_shapes, find_slots
from imagemill.worker.engine.slots.arguments import PipelineCalls
from imagemill.worker.engine.slots.embedded_prompts import embedded_prompts
from imagemill.worker.engine.slots.fiber import Fiber
from imagemill.worker.engine.slots.shared_passes import SharedPasses
from imagemill.worker.engine.slots.slot import Slot, pipeline_fiber
from imagemill.worker.models.adapters import activate_adapters, find_adapters
from imagemill.worker.models.added_models import activate_ip_adapter, controlnet_of
from imagemill.worker.models.environment import Environment, Shapes, describe_environment
from imagemill.worker.models.model import Model

SLOTS_ENGINE = "slots"
"""What the environment of an image says of this engine, in its field `engine`."""

_MOST_UNDER_WAY = 3
"""How many times B images may be under way, where their calls do not share passes."""


class SlotEngine(ShapedEngine):
    """An `Engine` around a diffusers pipeline of any family."""

    def __init__(
        self,
        model: Model,
        *,
        shapes: Shapes,
        guided: bool,
        environment: Environment,
        calls: PipelineCalls,
        shared_passes: SharedPasses,
        activate: Callable[[], None],
    ) -> None:
        """More than seven parameters: `open_slot_engine` puts together what another group lacks.

        `activate` gives the model the adapters of this group, if another engine has changed them.
        """
        super().__init__(model, shapes=shapes, guided=guided, environment=environment)
        self._calls = calls
        self._shared_passes = shared_passes
        self._activate = activate
        self._slots: list[Slot] = []
        self._image_calls = 0

    @property
    def image_calls(self) -> int:
        """Denoiser calls of single images so far; over `steps` it is the mean fill of a pass."""
        return self._image_calls

    @property
    def refined(self) -> bool:
        """No pipeline has a refiner of ours; a pipeline's own is part of its call."""
        return False

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""
        return bool(self._ended or self._slots)

    @property
    def tickets(self) -> tuple[int | None, ...]:
        """The tickets of the images under way, in the order in which they came."""
        return tuple(slot.ticket for slot in self._slots)

    def room(self) -> int:
        """How many images are missing until a pass is full."""
        return missing(
            self._groups().values(), places=self.slots, most=_MOST_UNDER_WAY * self.slots
        )

    @torch.no_grad()
    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Begin images, each up to its first denoiser call; see `Engine`."""
        check_room(images, self.room())
        self._activate()
        for ticket, spec in images:
            try:
                self._check(spec)
            except ImagemillError as error:
                self._ended.append(Failed(ticket=ticket, error=error))
                continue
            slot = Slot(ticket=ticket, spec=spec, calls=self._calls)
            self._slots.append(slot)
            self._advance(slot, None)

    @torch.no_grad()
    def step(self) -> list[Rendered | Failed]:
        """Make one denoiser call for the largest group of waiting slots; see `Engine`."""
        if not self._slots:
            return self._take_ended()
        started = time.perf_counter()
        self._activate()
        group = next_pass(self._groups().values(), places=self.slots, passes=self._steps)
        outputs = self._pass(group)
        self._steps += 1
        self._image_calls += len(group)
        share = (time.perf_counter() - started) / len(group)
        for slot, output in zip(group, outputs, strict=True):
            slot.seconds += share
            slot.passes += 1
            self._advance(slot, output)
        return self._take_ended()

    @torch.no_grad()
    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here."""
        dropped = [slot for slot in self._slots if slot.ticket in tickets]
        for slot in dropped:
            self._slots.remove(slot)
            slot.fiber.stop()
        return [slot.ticket for slot in dropped] + self._drop_ended(tickets)

    def abandon(self) -> list[int]:
        """Drop every image."""
        tickets = [slot.ticket for slot in self._slots]
        return self.cancel([*tickets, *(result.ticket for result in self._ended)])

    def _check(self, spec: ImageSpec) -> None:
        wanted = (spec.width, spec.height, spec.guided, spec.windows)
        shapes = self._shapes
        here = (shapes.width, shapes.height, self._guided, shapes.windows)
        if wanted != here:
            raise ModelError(f"image of {wanted} in an engine of {here}: not of this group")
        self._calls.check(spec)

    def _groups(self) -> dict[Hashable, list[Slot]]:
        """The waiting slots by signature."""
        groups: dict[Hashable, list[Slot]] = {}
        for slot in self._slots:
            groups.setdefault(slot.signature, []).append(slot)
        return groups

    def _pass(self, group: Sequence[Slot]) -> list[Any]:
        requests = [slot.request for slot in group if slot.request is not None]
        try:
            with self._model.tuning.attending():
                return self._shared_passes.run(requests)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(error) from error
        except ImagemillError:
            raise
        except Exception as error:  # a model may raise anything
            raise PassFailed(
                f"the forward pass failed: {type(error).__name__}: {first_line(error)}",
                tickets=[slot.ticket for slot in group],
            ) from error

    def _advance(self, slot: Slot, answer: object) -> None:
        """Run a slot to its next denoiser call. If it raises, it fails alone."""
        started = time.perf_counter()
        try:
            slot.fiber.resume(answer)
            slot.request = None
            if not slot.fiber.ended:
                self._await_pass(slot)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(error) from error
        except Exception as error:  # any error of one image must not touch its neighbours
            self._fail(slot, error)
            return
        slot.seconds += time.perf_counter() - started
        if slot.fiber.ended:
            self._end(slot)

    def _await_pass(self, slot: Slot) -> None:
        def begin(images: int) -> Fiber:
            return pipeline_fiber(lambda: self._calls.call(slot.spec, images=images))

        request = self._shared_passes.normalized(slot.fiber.request)
        slot.request, slot.signature = request, self._shared_passes.signature(request, begin)
        halved = self._shared_passes.with_prompt_rows_only(request)
        if halved is not request:
            slot.request, slot.signature = halved, self._shared_passes.signature(halved, begin)
        slot.waiting_since = self._steps

    def _end(self, slot: Slot) -> None:
        try:
            result = slot.rendered(self._environment)
        except Exception as error:
            self._fail(slot, error)
            return
        self._slots.remove(slot)
        self._ended.append(result)

    def _fail(self, slot: Slot, error: Exception) -> None:
        self._slots.remove(slot)
        if not slot.fiber.ended:
            slot.fiber.stop()
        self._ended.append(Failed(ticket=slot.ticket, error=_readable(error, begun=slot.passes)))

    def _out_of_memory(self, error: torch.OutOfMemoryError) -> OutOfMemory:
        return OutOfMemory(f"out of memory with {self.slots} slots: {first_line(error)}")


_REFUSALS = (ValueError, TypeError, NotImplementedError)
"""The errors that pipelines and samplers raise about arguments that do not suit them."""


def open_slot_engine(
    model: Model,
    group: Mapping[str, Any],
    settings: Settings,
    slots: int | None,
    *,
    inputs: Inputs | None,
) -> SlotEngine | RecordedEngine:
    """See `engine.factory.open_engine`. On a GPU, B is found by trying if nobody has set it."""
    check_weights(model, group)

    def build(count: int | None) -> SlotEngine:
        return _build(model, group, settings, count, inputs=inputs or no_inputs)

    if by_trying(model.device, settings, slots):
        try:
            slots = find_slots(lambda count: probe(build(count), group, model))
        except OutOfMemory:
            raise
        except ImagemillError:  # it draws nothing without a picture: then the default counts
            slots = None
    engine = build(slots)
    return RecordedEngine(engine) if settings.batches == "recorded" else engine


def _build(
    model: Model,
    group: Mapping[str, Any],
    settings: Settings,
    slots: int | None,
    *,
    inputs: Inputs,
) -> SlotEngine:
    registry = load_registry(settings)
    adapters = find_adapters(group["adapters"], registry)
    shapes = choose_shapes(device=model.device, group=group, settings=settings, slots=slots)
    # A pipeline encodes the texts of its one image itself.
    shapes = replace(shapes, prompts=1)
    environment = describe_environment(
        device=model.device,
        precision=model.precision,
        shapes=shapes,
        batches=settings.batches,
        group=group,
        adapters=[{"digest": adapter.digest, "weight": adapter.weight} for adapter in adapters],
        tuning=model.tuning,
    ).changed(engine=SLOTS_ENGINE)
    controlnet = controlnet_of(model, group, registry)

    def activate() -> None:
        activate_adapters(model, adapters)
        activate_ip_adapter(model, group, registry)

    activate()
    return SlotEngine(
        model,
        shapes=shapes,
        guided=group["guided"],
        environment=environment,
        calls=PipelineCalls(
            model.pipeline,
            inputs=with_known_picture(inputs),
            max_pixels=settings.max_pixels,
            controlnet=controlnet,
            prompts=embedded_prompts(model, windows=shapes.windows),
        ),
        shared_passes=SharedPasses(model.pipeline, images=shapes.slots, controlnet=controlnet),
        activate=activate,
    )


def _readable(error: Exception, *, begun: int) -> ImagemillError:
    """An image's own error. Before its first pass, its arguments are likely to be at fault."""
    if not begun and isinstance(error, _REFUSALS):
        return UsageError(first_line(error))
    return own_error(error)
