"""A specification → an image before its first denoiser call, alone or in a cohort."""

from collections.abc import Hashable
from typing import Any

import torch

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.guided.slot import Cohort, RefinerPart, Slot
from imagemill.worker.engine.schedulers import (
    Scheduler,
    scheduler_for,
    step_arguments,
    steps_rows_alike,
)
from imagemill.worker.engine.texts.conditions import Condition
from imagemill.worker.models.model import Model


def cohort_key(spec: ImageSpec) -> Hashable | None:
    """What images must have in common to be one cohort; None for an image that must be alone."""
    own = (spec.init_image, spec.mask, spec.refiner_start)
    if any(each is not None for each in own) or spec.guidance_rescale > 0:
        return None
    interval = (spec.guidance_start, spec.guidance_end)
    return (spec.sampler, spec.sampler_options, spec.steps, interval)


def begin(
    slot: Slot,
    model: Model,
    initial_latents: InitialLatents,
    *,
    cohort: Cohort | None = None,
    refined: tuple[Condition, Condition | None] | None = None,
) -> Cohort:
    """The cohort of an image that begins now: `cohort` if it may join that, else a new one.

    `cohort` must have the same `cohort_key` and not have been stepped on. All noise, also that
    of the ancestral samplers, comes from one CPU generator with the image's seed: so every device
    gets the same numbers. `refined` holds the prompt and the negative prompt for the refiner, if
    the specification asks for it. Raises what `InitialLatents.start` and `scheduler_for` raise.
    """
    spec = slot.spec
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    if cohort is not None and steps_rows_alike(cohort.scheduler):
        start = initial_latents.start(spec, cohort.scheduler, generator)
        cohort.join(slot, start.latents, _arguments(cohort.scheduler, spec, generator))
        return cohort
    scheduler = scheduler_for(spec, model)
    start = initial_latents.start(spec, scheduler, generator)
    timesteps, refiner_part = start.timesteps, None
    if refined is not None:
        second = scheduler_for(spec, model)
        timesteps, rest = _divided(timesteps, second, spec)
        refiner_part = RefinerPart(
            scheduler=second,
            timesteps=rest,
            arguments=_arguments(second, spec, generator),
            prompt=refined[0],
            negative=refined[1],
        )
    begun = Cohort(
        slots=[slot],
        scheduler=scheduler,
        timesteps=timesteps,
        latents=start.latents,
        blend=start.blend,
        extra=start.extra,
        arguments=_arguments(scheduler, spec, generator),
        calls=len(timesteps) + (0 if refiner_part is None else len(refiner_part.timesteps)),
        refiner_part=refiner_part,
    )
    begun.hand_over()
    return begun


def _arguments(scheduler: Scheduler, spec: ImageSpec, generator: torch.Generator) -> dict[str, Any]:
    return dict(step_arguments(scheduler, dict(spec.sampler_options), generator))


def _divided(
    timesteps: torch.Tensor, second: Scheduler, spec: ImageSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """The base's timesteps and the refiner's, divided as diffusers' two pipelines divide them.

    `second` is the refiner's scheduler; it is told at which of its timesteps it begins.
    """
    assert spec.refiner_start is not None
    train = second.config.num_train_timesteps
    limit = round(train - spec.refiner_start * train)
    rest = int((second.timesteps < limit).sum())
    if getattr(second, "order", 1) == 2 and rest % 2 == 0:
        # Each step but the last has two halves, and the refiner must not begin with a second half.
        rest += 1
    begin = len(second.timesteps) - min(rest, len(timesteps))
    if hasattr(second, "set_begin_index"):
        second.set_begin_index(begin)
    return timesteps[timesteps >= limit], second.timesteps[begin:]
