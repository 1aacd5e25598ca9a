"""One image under way, with its own sampler, noise, schedule and guidance.

Images of one batch may differ in sampler and number of steps. That is possible because only the
denoiser call is shared: every image is stepped on by itself, with its own scheduler object.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from imagemill.db.errors import UsageError
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.guided.conditions import Condition
from imagemill.worker.engine.guided.initial_latents import Blend, Starts, put_back
from imagemill.worker.engine.schedulers import Scheduler, make_scheduler, step_arguments
from imagemill.worker.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Refining:
    """What the refiner continues with: a new scheduler, its timesteps, and the texts for it."""

    scheduler: Scheduler
    timesteps: torch.Tensor
    arguments: dict[str, Any]
    prompt: Condition
    negative: Condition | None


@dataclass(kw_only=True, slots=True)
class Slot:
    """An image between its first and its last denoiser call.

    `latents` is (1, channels, height, width) in latent cells. `timesteps` stays on the CPU: the
    schedulers look values up in it, and each lookup on a GPU would stop the GPU's queue.
    `later` is what the refiner does after these timesteps; `refining` says that it has begun.
    `calls` is the number of the image's denoiser calls, those of the refiner included, and `called`
    how many of them are done.
    """

    ticket: int
    spec: ImageSpec
    scheduler: Scheduler
    timesteps: torch.Tensor
    latents: torch.Tensor
    arguments: dict[str, Any]
    prompt: Condition
    negative: Condition | None
    cut: str | None
    calls: int
    called: int = 0
    blend: Blend | None = None
    extra: torch.Tensor | None = None
    later: Refining | None = None
    refining: bool = False
    index: int = 0
    seconds: float = field(default=0.0)

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep of the next denoiser call: a scalar."""
        return self.timesteps[self.index]

    @property
    def finished(self) -> bool:
        """Whether no denoiser call is left."""
        return self.index >= len(self.timesteps)

    def model_input(self) -> torch.Tensor:
        """The latents, scaled for this step, with any `extra` channels, contiguous.

        They must be contiguous. A convolution's bits depend on the memory format of its input,
        and a batch takes its format from its rows. The VAE encoder returns another format, so
        without this an image with an init image would change its neighbours' bits.
        """
        scale = getattr(self.scheduler, "scale_model_input", None)
        scaled: torch.Tensor = self.latents
        if scale is not None:
            scaled = scale(self.latents, self.timestep)
        if self.extra is not None:
            scaled = torch.cat([scaled, self.extra], dim=1)
        return scaled.contiguous()

    def advance(self, negative: torch.Tensor | None, prompt: torch.Tensor) -> None:
        """Take one step with the denoiser's outputs for this image.

        Each output has the shape of the latents. The arithmetic repeats diffusers' operation by
        operation, for equal bits. For example the guidance scale stays a Python number, because
        an fp16 tensor would round it first.
        """
        output = prompt
        if negative is not None and self.spec.guided_at(self.called, self.calls):
            output = negative + self.spec.guidance_scale * (prompt - negative)
            if self.spec.guidance_rescale > 0:
                output = rescale_guidance(output, prompt, self.spec.guidance_rescale)
        stepped = self.scheduler.step(
            output, self.timestep, self.latents, **self.arguments, return_dict=False
        )
        self.latents = stepped[0].to(self.latents.dtype)
        self.index += 1
        self.called += 1
        if self.blend is not None:
            time = None if self.finished else self.timestep.reshape(1)
            self.latents = put_back(self.blend, self.latents, self.scheduler, time)
        self.hand_over()

    def hand_over(self) -> None:
        """Continue with the refiner if the base's timesteps are finished and there is one."""
        if self.later is None or not self.finished:
            return
        self.scheduler, self.timesteps = self.later.scheduler, self.later.timesteps
        self.prompt, self.negative = self.later.prompt, self.later.negative
        self.arguments = self.later.arguments
        self.index, self.refining, self.later = 0, True, None


def begin(
    *,
    ticket: int,
    spec: ImageSpec,
    model: Model,
    starts: Starts,
    prompt: Condition,
    negative: Condition | None,
    cut: str | None,
    refined: tuple[Condition, Condition | None] | None = None,
) -> Slot:
    """An image's state before its first denoiser call.

    All noise, also that of the ancestral samplers, comes from one CPU generator with the image's
    seed: so every device gets the same numbers. `refined` holds the prompt and the negative
    prompt for the refiner, if the specification asks for it. Raises what `Starts.start` and
    `scheduler_for` raise.

    More than seven parameters: each is a part of the state that another module makes.
    """
    options = dict(spec.sampler_options)
    scheduler = scheduler_for(spec, model)
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    start = starts.start(spec, scheduler, generator)
    timesteps, later = start.timesteps, None
    if refined is not None:
        second = scheduler_for(spec, model)
        timesteps, rest = _divided(timesteps, second, spec)
        later = Refining(
            scheduler=second,
            timesteps=rest,
            arguments=dict(step_arguments(second, options, generator)),
            prompt=refined[0],
            negative=refined[1],
        )
    slot = Slot(
        ticket=ticket,
        spec=spec,
        scheduler=scheduler,
        timesteps=timesteps,
        latents=start.latents,
        blend=start.blend,
        extra=start.extra,
        arguments=dict(step_arguments(scheduler, options, generator)),
        prompt=prompt,
        negative=negative,
        cut=cut,
        calls=len(timesteps) + (0 if later is None else len(later.timesteps)),
        later=later,
    )
    slot.hand_over()
    return slot


def rescale_guidance(guided: torch.Tensor, prompt: torch.Tensor, amount: float) -> torch.Tensor:
    """Guidance rescale: section 3.4 of arXiv:2305.08891, computed as in diffusers."""
    axes = list(range(1, prompt.ndim))
    ratio = prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * ratio) + (1 - amount) * guided


def scheduler_for(spec: ImageSpec, model: Model) -> Scheduler:
    """An image's scheduler with its timesteps set.

    Raises `UsageError` if the sampler does not allow that many steps.
    """
    scheduler = make_scheduler(
        spec.sampler,
        dict(spec.sampler_options),
        model_config=model.scheduler_config,
        seed=spec.seed,
    )
    try:
        scheduler.set_timesteps(spec.steps, device="cpu")
    except (ValueError, IndexError, ZeroDivisionError) as error:
        # Some samplers need a minimum of steps, and LCM has a maximum.
        raise UsageError(f"sampler {spec.sampler}, {spec.steps} steps: {error}") from error
    return scheduler


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
