"""Images under way: each with its own texts, guidance and noise, stepped on with its cohort.

Images of one batch may differ in sampler and number of steps. That is possible because only the
denoiser call is shared: every cohort is stepped on by itself, with its own scheduler object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.guided.initial_latents import Blend, put_back
from imagemill.worker.engine.schedulers import Scheduler
from imagemill.worker.engine.texts.conditions import Condition


@dataclass(kw_only=True, slots=True, eq=False)
class Slot:
    """One image between its first and its last denoiser call.

    `place` is its number in the engine; `rows` says which rows of a call follow from it.
    """

    ticket: int
    spec: ImageSpec
    place: int
    prompt: Condition
    negative: Condition | None
    cut: str | None
    seconds: float = field(default=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinerPart:
    """What the refiner continues with: a new scheduler, its timesteps, and the texts for it."""

    scheduler: Scheduler
    timesteps: torch.Tensor
    arguments: dict[str, Any]
    prompt: Condition
    negative: Condition | None


@dataclass(kw_only=True, slots=True, eq=False)
class Cohort:
    """Images that began together and are stepped on together, with one scheduler.

    They have the sampler, its options, the timesteps and the guidance interval in common; most
    images have neighbours of that kind, and a step of many rows costs Python as much as a step of
    one. An image with anything of its own (a picture that it starts from, a refiner, guidance
    rescale) is a cohort alone.

    - `latents`: (images, channels, height, width) in latent cells, in the order of `slots`.
    - `timesteps`: on the CPU, because the schedulers look values up in it, and each lookup on a GPU
      would stop the GPU's queue. `index` is that of the next one.
    - `calls`: the denoiser calls of each image, those of the refiner included; `called` of them are
      done.
    - `refiner_part`: what the refiner does after these timesteps; `refining` says that it does it.
    - `waiting_since`: the number of the engine's call after which they began to wait for the next.
    """

    slots: list[Slot]
    scheduler: Scheduler
    timesteps: torch.Tensor
    latents: torch.Tensor
    arguments: dict[str, Any]
    calls: int
    called: int = 0
    blend: Blend | None = None
    extra: torch.Tensor | None = None
    refiner_part: RefinerPart | None = None
    refining: bool = False
    index: int = 0
    waiting_since: int = 0
    _guiding: bool | None = None
    _scales: float | torch.Tensor | None = None

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep of the next denoiser call: a scalar."""
        return self.timesteps[self.index]

    @property
    def finished(self) -> bool:
        """Whether no denoiser call is left."""
        return self.index >= len(self.timesteps)

    @property
    def guiding(self) -> bool:
        """Whether the next denoiser call needs rows for the negative prompts."""
        if self._guiding is None:
            slot = self.slots[0]
            guided = slot.spec.guided_at(self.called, self.calls)
            self._guiding = slot.negative is not None and guided
        return self._guiding

    @property
    def scales(self) -> float | torch.Tensor:
        """The guidance scale, if it is one; else fp32, (images, 1, 1, 1)."""
        if self._scales is None:
            scales = [slot.spec.guidance_scale for slot in self.slots]
            self._scales = scales[0]
            if len(set(scales)) > 1:
                factors = torch.tensor(scales, dtype=torch.float32).view(-1, 1, 1, 1)
                self._scales = factors.to(self.latents.device)
        return self._scales

    def join(self, slot: Slot, latents: torch.Tensor, arguments: Mapping[str, Any]) -> None:
        """Take in one more image before the first step, with latents (1, channels, …)."""
        self.slots.append(slot)
        self._scales = None
        self.latents = torch.cat([self.latents, latents])
        if "generator" in arguments:
            known = self.arguments["generator"]
            together = known if isinstance(known, list) else [known]
            self.arguments["generator"] = [*together, arguments["generator"]]

    def leave(self, left: Slot) -> None:
        """Let one image go; the others get the bits that they would have got with it."""
        keep = [place for place, slot in enumerate(self.slots) if slot is not left]
        images = len(self.slots)
        self.slots = [self.slots[place] for place in keep]
        self._scales = None
        if not keep:
            return
        generators = self.arguments.get("generator")
        if isinstance(generators, list):
            self.arguments["generator"] = [generators[place] for place in keep]
        # What a scheduler remembers of earlier steps has the shape of the latents.
        for name, value in vars(self.scheduler).items():
            setattr(self.scheduler, name, _kept(value, keep, (images, *self.latents.shape[1:])))
        self.latents = self.latents[keep]

    def model_input(self) -> torch.Tensor:
        """The latents, scaled for this step, with any `extra` channels."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        scaled: torch.Tensor = self.latents
        if scale is not None:
            scaled = scale(self.latents, self.timestep)
        if self.extra is not None:
            scaled = torch.cat([scaled, self.extra], dim=1)
        return scaled

    def advance(self, negative: torch.Tensor | None, prompt: torch.Tensor) -> None:
        """Take one step with the denoiser's outputs for these images.

        Each output has the shape of the latents. The arithmetic repeats diffusers' operation by
        operation, for equal bits.
        """
        output = prompt
        spec = self.slots[0].spec
        if negative is not None and self.guiding:
            output = guide(self.scales, negative, prompt)
            if spec.guidance_rescale > 0:
                output = rescale_guidance(output, prompt, spec.guidance_rescale)
        stepped = self.scheduler.step(
            output, self.timestep, self.latents, **self.arguments, return_dict=False
        )
        self.latents = stepped[0].to(self.latents.dtype)
        self.index += 1
        self.called += 1
        self._guiding = None
        if self.blend is not None:
            time = None if self.finished else self.timestep.reshape(1)
            self.latents = put_back(self.blend, self.latents, self.scheduler, time)
        self.hand_over()

    def hand_over(self) -> None:
        """Continue with the refiner if the base's timesteps are finished and there is one."""
        if self.refiner_part is None or not self.finished:
            return
        (slot,) = self.slots
        slot.prompt, slot.negative = self.refiner_part.prompt, self.refiner_part.negative
        self.scheduler, self.timesteps = self.refiner_part.scheduler, self.refiner_part.timesteps
        self.arguments = self.refiner_part.arguments
        self.index, self.refining, self.refiner_part = 0, True, None


def guide(
    scales: float | torch.Tensor, negative: torch.Tensor, prompt: torch.Tensor
) -> torch.Tensor:
    """Classifier-free guidance of outputs (images, …), by one scale or by one for each image.

    A single scale stays a Python number, because an fp16 tensor would round it first. Scales that
    differ are multiplied in fp32 and the product is rounded, as torch does it with a number.
    """
    difference = prompt - negative
    if isinstance(scales, torch.Tensor):
        return negative + (scales * difference.float()).to(difference.dtype)
    return negative + scales * difference


def rescale_guidance(guided: torch.Tensor, prompt: torch.Tensor, amount: float) -> torch.Tensor:
    """Guidance rescale: section 3.4 of arXiv:2305.08891, computed as in diffusers."""
    axes = list(range(1, prompt.ndim))
    ratio = prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * ratio) + (1 - amount) * guided


def _kept(value: Any, keep: Sequence[int], shape: tuple[int, ...]) -> Any:
    """The value with only these rows of every tensor of that shape in it."""
    if isinstance(value, torch.Tensor):
        return value[keep] if value.shape == shape else value
    if isinstance(value, (list, tuple)):
        return type(value)(_kept(each, keep, shape) for each in value)
    return value
