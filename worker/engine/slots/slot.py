"""One image under way: its pipeline call in a fiber, and the picture that comes of it."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imagemill.db.errors import ModelError
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Rendered
from imagemill.worker.engine.pictures import Picture, lost_picture, picture_of
from imagemill.worker.engine.slots.arguments import PipelineCall, PipelineCalls
from imagemill.worker.engine.slots.cut_prompts import TokenizerNotes
from imagemill.worker.engine.slots.fiber import Fiber
from imagemill.worker.engine.slots.fp32_retry import Fp32Retry
from imagemill.worker.engine.slots.shared_passes import PassRequest, replace_denoisers
from imagemill.worker.models.environment import Environment


class Slot:
    """An image's pipeline call, from one denoiser call to the next.

    `request` is the denoiser call that it waits for; calls with the same `signature` may share a
    pass. `passes` counts its denoiser calls, `seconds` is its share of the engine's time.
    `waiting_since` is the number of the engine's pass after which it began to wait.
    """

    def __init__(self, *, ticket: int, spec: ImageSpec, calls: PipelineCalls) -> None:
        self.ticket = ticket
        self.spec = spec
        self.request: PassRequest | None = None
        self.signature: Hashable = None
        self.passes = 0
        self.seconds = 0.0
        self.waiting_since = 0
        self._notes = TokenizerNotes()
        self._retry = Fp32Retry()
        self._cut: str | None = None

        def watched_call() -> PipelineCall:
            call = calls.call(spec)
            self._notes.watch(call.pipeline, kept=calls.kept_tokens)
            self._retry.watch(call.pipeline)
            self._cut = call.cut
            return call

        self.fiber = pipeline_fiber(watched_call)

    def rendered(self, environment: Environment) -> Rendered:
        """The finished image. Raises `ModelError` if the pipeline gave no picture of its size."""
        images = getattr(self.fiber.take_result(), "images", None)
        values = None if images is None else np.asarray(images[0])
        if values is None or values.shape[:2] != (self.spec.height, self.spec.width):
            shape = None if values is None else values.shape
            raise ModelError(
                f"the pipeline gave {shape} for {self.spec.width} x {self.spec.height}: no "
                "picture of that size"
            )
        picture = _picture(values * np.nan if self._retry.failed else values)
        cut = self._cut or self._notes.cut(self.spec.prompt)
        outcome = picture.outcome
        if outcome is Outcome.OK and cut is not None:
            outcome = Outcome.TRUNCATED_PROMPT
        in_fp32 = self._retry.succeeded
        return Rendered(
            ticket=self.ticket,
            pixels=picture.pixels,
            outcome=outcome,
            cut=cut,
            seconds=self.seconds,
            environment=environment.changed(vae_dtype="fp32") if in_fp32 else None,
        )


def pipeline_fiber(make: Callable[[], PipelineCall]) -> Fiber:
    """A fiber that makes a pipeline call and stops at each of its denoiser calls."""

    def run() -> Any:
        call = make()
        replace_denoisers(call.pipeline, fiber, call.interval)
        # A few pipelines sample a control picture's latents without the generator that they are
        # given (SD 3, HunyuanDiT). They do it before their first denoiser call, so no other slot
        # runs in between.
        torch.manual_seed(call.seed)
        result = call.pipeline(**call.arguments)
        if call.interval is not None:
            call.interval.check_followed()
        return result

    fiber = Fiber(run)
    return fiber


def _picture(values: npt.NDArray[Any]) -> Picture:
    """Values in [0, 1], (height, width, channels), as a picture."""
    height, width, _ = values.shape
    if not np.isfinite(values).all():
        return lost_picture(height, width)
    return picture_of((values * 255).round().astype(np.uint8))
