"""The engine for all other diffusers pipelines: images with equal settings share a call.

Such a pipeline runs its own loop, so no image can join a call that is under way: admitted images
wait for the next call. A call always has B rows, each with its own prompt, negative prompt and CPU
generator; unused rows have a constant prompt and seed. So each call is a micro-batch, and with
`batches = "recorded"` its composition is kept.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imagemill.db.compositions import Composition
from imagemill.db.errors import (
    ImagemillError,
    ModelError,
    OutOfMemory,
    RenderError,
    UsageError,
    first_line,
)
from imagemill.db.settings import Batches, Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.generic.arguments import PipelineCalls
from imagemill.worker.engine.generic.cut_prompts import Reading
from imagemill.worker.engine.generic.fp32_retry import Mending
from imagemill.worker.engine.generic.stepwise import Stepwise
from imagemill.worker.engine.pictures import Picture
from imagemill.worker.engine.shaped_engine import ShapedEngine, check_room, check_weights
from imagemill.worker.engine.shapes import choose_shapes
from imagemill.worker.models.environment import Environment, Shapes, describe_environment
from imagemill.worker.models.model import Model
from imagemill.worker.models.pipelines import denoisers

Admitted = tuple[int, ImageSpec]
"""A ticket and its image's specification."""


@dataclass(kw_only=True, slots=True)
class _Batch:
    """The images of one call. A cancelled image leaves `tickets`, but its row is computed on."""

    images: list[Admitted]
    tickets: set[int]
    call: Stepwise[Any]
    reading: Reading
    mending: Mending
    seconds: float = 0.0


class GenericEngine(ShapedEngine):
    """An `Engine` around a diffusers pipeline of any family."""

    def __init__(
        self,
        model: Model,
        *,
        shapes: Shapes,
        guided: bool,
        environment: Environment,
        batches: Batches = "continuous",
    ) -> None:
        super().__init__(model, shapes=shapes, guided=guided, environment=environment)
        self._recorded = batches == "recorded"
        self._calls = PipelineCalls(model.pipeline)
        self._waiting: list[Admitted] = []
        self._batch: _Batch | None = None

    @property
    def refined(self) -> bool:
        """Always False: a refiner would have to continue the pipeline's own loop."""
        return False

    @property
    def busy(self) -> bool:
        """Whether a `step` has something to do."""
        return bool(self._failed or self._waiting or self._batch)

    def room(self) -> int:
        """How many more images may be admitted now."""
        in_work = 0 if self._batch is None else len(self._batch.tickets)
        return self.slots - in_work - len(self._waiting)

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """Queue images for the next call; see `Engine`."""
        check_room(images, self.room())
        for ticket, spec in images:
            try:
                self._check(spec)
            except ImagemillError as error:
                self._failed.append(Failed(ticket=ticket, error=error))
            else:
                self._waiting.append((ticket, spec))

    def step(self) -> list[Rendered | Failed]:
        """Make one denoiser call for the batch under way, or begin the next; see `Engine`."""
        if self._batch is None and self._waiting:
            self._batch = self._next_batch()
        if self._batch is None:
            return self._take_failed()
        batch = self._batch
        started = time.perf_counter()
        try:
            ended = batch.call.advance()
        except torch.OutOfMemoryError as error:
            self._wait_again(batch)
            raise OutOfMemory(f"out of memory with {self.slots} slots: {error}") from error
        except Exception as error:  # a pipeline may raise anything
            return self._refused(batch, error)
        self._steps += 1
        batch.seconds += time.perf_counter() - started
        results = self._take_failed()
        if ended:
            self._batch = None
            results += self._rendered(batch)
        return results

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """Drop these images if they are here."""
        wanted = set(tickets)
        dropped = [ticket for ticket, _ in self._waiting if ticket in wanted]
        dropped += self._drop_failed(wanted)
        self._waiting = [image for image in self._waiting if image[0] not in wanted]
        if self._batch is not None:
            dropped += sorted(self._batch.tickets & wanted)
            self._batch.tickets -= wanted
            if not self._batch.tickets:
                self._batch.call.drop()
                self._batch = None
        return dropped

    def abandon(self) -> list[int]:
        """Drop every image and end the call under way; see `Engine`."""
        tickets = [ticket for ticket, _ in self._waiting]
        tickets += [failure.ticket for failure in self._failed]
        if self._batch is not None:
            tickets += self._batch.tickets
        return self.cancel(tickets)

    def _check(self, spec: ImageSpec) -> None:
        wanted = (spec.width, spec.height, spec.guided)
        here = (self._shapes.width, self._shapes.height, self._guided)
        if wanted != here:
            raise ModelError(f"image of {wanted} in an engine of {here}: not of this group")
        self._calls.check(spec)

    def _next_batch(self) -> _Batch:
        """A batch of the image that has waited longest and all that may share its call."""
        key = self._calls.batch_key(self._waiting[0][1])
        images = [image for image in self._waiting if self._calls.batch_key(image[1]) == key]
        self._waiting = [image for image in self._waiting if image not in images]
        specs = [spec for _, spec in images]

        reading, mending = Reading(), Mending()

        def call() -> Any:
            pipeline = self._calls.pipeline(specs, rows=self.slots)
            reading.watch(pipeline, kept=self._calls.kept_tokens)
            mending.watch(pipeline)
            return pipeline(**self._calls.arguments(specs, rows=self.slots))

        return _Batch(
            images=images,
            tickets={ticket for ticket, _ in images},
            call=Stepwise(call, denoisers(self._model.pipeline)),
            reading=reading,
            mending=mending,
        )

    def _refused(self, batch: _Batch, error: Exception) -> list[Rendered | Failed]:
        """Handle a failed call.

        If its only image was refused before the first step, that image is at fault. In all other
        cases the images wait again and the error is raised, because any of them may be.
        """
        if len(batch.images) == 1 and not batch.call.begun and isinstance(error, _REFUSALS):
            self._batch = None
            readable = error if isinstance(error, ImagemillError) else _usage_error(error)
            failed = [Failed(ticket=ticket, error=readable) for ticket in batch.tickets]
            return [*self._take_failed(), *failed]
        self._wait_again(batch)
        if isinstance(error, ImagemillError):
            raise error
        raise RenderError(
            f"the pipeline failed: {type(error).__name__}: {first_line(error)}"
        ) from error

    def _wait_again(self, batch: _Batch) -> None:
        self._batch = None
        self._waiting = [image for image in batch.images if image[0] in batch.tickets] + (
            self._waiting
        )

    def _rendered(self, batch: _Batch) -> list[Rendered | Failed]:
        images = getattr(batch.call.result, "images", None)
        found: list[Rendered | Failed] = []
        composition = Composition.of(batch.images, slots=self.slots) if self._recorded else None
        for row, (ticket, spec) in enumerate(batch.images):
            if ticket not in batch.tickets:
                continue
            values = None if images is None else np.asarray(images[row])
            if values is None or values.shape[:2] != (spec.height, spec.width):
                shape = None if values is None else values.shape
                wrong = f"{type(self._model.pipeline).__name__} gave {shape} for {spec.width} x"
                error = ModelError(f"{wrong} {spec.height}: no picture of that size")
                found.append(Failed(ticket=ticket, error=error))
                continue
            picture = _picture(values * np.nan if row in batch.mending.lost else values)
            cut = batch.reading.cut(spec.prompt)
            outcome = picture.outcome
            if outcome is Outcome.OK and cut is not None:
                outcome = Outcome.TRUNCATED_PROMPT
            mended = row in batch.mending.mended
            found.append(
                Rendered(
                    ticket=ticket,
                    pixels=picture.pixels,
                    outcome=outcome,
                    cut=cut,
                    seconds=batch.seconds / len(batch.images),
                    composition=composition,
                    environment=self._environment.changed(vae_dtype="fp32") if mended else None,
                )
            )
        return found


_REFUSALS = (ValueError, TypeError, NotImplementedError, UsageError)
"""The errors that pipelines and samplers raise about arguments that do not suit them."""


def open_generic_engine(
    model: Model, group: Mapping[str, Any], settings: Settings, slots: int | None
) -> GenericEngine:
    """See `imagemill.worker.engine.factory.open_engine`."""
    check_weights(model, group)
    if group["adapters"]:
        raise ModelError(f"model {model.name}: a generic pipeline takes no adapters")
    shapes = choose_shapes(device=model.device, group=group, settings=settings, slots=slots)
    environment = describe_environment(
        device=model.device,
        precision=model.precision,
        shapes=shapes,
        batches=settings.batches,
        group=group,
        adapters=[],
    )
    return GenericEngine(
        model,
        shapes=shapes,
        guided=group["guided"],
        environment=environment,
        batches=settings.batches,
    )


def _picture(values: npt.NDArray[Any]) -> Picture:
    """Values in [0, 1], (height, width, channels), as a picture."""
    height, width, channels = values.shape
    if not np.isfinite(values).all():
        return Picture(pixels=np.zeros((height, width, 3), np.uint8), outcome=Outcome.NAN)
    pixels = (values * 255).round().astype(np.uint8)
    if channels == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    uniform = bool((pixels == pixels[0, 0]).all())
    return Picture(pixels=pixels, outcome=Outcome.BLANK if uniform else Outcome.OK)


def _usage_error(error: Exception) -> UsageError:
    return UsageError(first_line(error))
