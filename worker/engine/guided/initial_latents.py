"""The latents that an image starts from: noise, another picture, or a picture and a mask.

The image's generator is used in the same order as in diffusers' pipelines. Every draw moves the
generator on, so only then does a seed give the same picture there and here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.input_pictures import read_picture
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.inputs import Inputs, strength_of
from imagemill.worker.engine.schedulers import Scheduler
from imagemill.worker.models.model import Model

_KEPT_ENCODINGS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """What inpainting with an ordinary model restores outside the mask after every step.

    All are (1, channels, height, width) in latent cells. `mask` is 1 where the model may draw.
    """

    mask: torch.Tensor
    image: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An image's state before its first denoiser call.

    `latents` is (1, channels, height, width) in latent cells. `extra` holds constant channels
    that follow those of the latents: an inpainting model's mask and masked picture.
    """

    timesteps: torch.Tensor
    latents: torch.Tensor
    blend: Blend | None = None
    extra: torch.Tensor | None = None


class InitialLatents:
    """Makes the `Start` of each image of one engine."""

    def __init__(
        self, model: Model, *, width: int, height: int, inputs: Inputs, max_pixels: int
    ) -> None:
        self._model = model
        self._vae: Any = model.components.get("vae")
        self._inputs = inputs
        self._max_pixels = max_pixels
        self._width = width
        self._height = height
        scale = model.facts.latent_scale
        self.cells = (height // scale, width // scale)
        self.shape = (1, model.facts.latent_channels, *self.cells)
        self._pictures = VaeImageProcessor(vae_scale_factor=scale)
        self._masks = VaeImageProcessor(
            vae_scale_factor=scale,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        self._encodings: LRUCache[str, Any] = LRUCache(_KEPT_ENCODINGS)

    def start(self, spec: ImageSpec, scheduler: Scheduler, generator: torch.Generator) -> Start:
        """The start of an image.

        `scheduler` must have its timesteps set; it is told at which of them the image begins.
        Raises `UsageError` or `ModelError` if the specification does not fit the model, and
        `InputImageError` if an input file can't be used.
        """
        if spec.mask is not None:
            return self._from_mask(spec, scheduler, generator)
        if self._model.facts.inpainting:
            raise ModelError(f"model {self._model.name} needs an init image and a mask")
        if spec.init_image is not None:
            return self.variation(spec, scheduler, generator)
        noise = self._noise(generator)
        latents = noise * _initial_sigma(scheduler)
        return Start(timesteps=scheduler.timesteps, latents=latents.to(self._model.dtype))

    def variation(self, spec: ImageSpec, scheduler: Scheduler, generator: torch.Generator) -> Start:
        """The start from an init image, without a mask, for any model."""
        assert spec.init_image is not None
        strength = strength_of(spec)
        timesteps = _later_timesteps(scheduler, spec.steps, strength)
        image = self.encoded(spec.init_image, generator)
        noise = self._noise(generator)
        latents = _noised(scheduler, image, noise, timesteps[:1])
        return Start(timesteps=timesteps, latents=latents.to(self._model.dtype))

    def _from_mask(
        self, spec: ImageSpec, scheduler: Scheduler, generator: torch.Generator
    ) -> Start:
        if spec.init_image is None or spec.mask is None:
            raise UsageError("a mask without an init image; give both")
        strength = strength_of(spec)
        own_channels = self._model.facts.inpainting
        timesteps = _later_timesteps(scheduler, spec.steps, strength)
        image = None
        if not own_channels or strength < 1:
            image = self.encoded(spec.init_image, generator)
        noise = self._noise(generator)
        if image is None or strength == 1:
            latents = noise * _initial_sigma(scheduler)
        else:
            latents = _noised(scheduler, image, noise, timesteps[:1])
        latents = latents.to(self._model.dtype)
        mask = self._mask(spec.mask)
        cells = torch.nn.functional.interpolate(mask, size=self.cells)
        cells = cells.to(device=self._model.device, dtype=self._model.dtype)
        if own_channels:
            masked = self.picture(spec.init_image) * (mask < 0.5)
            hidden = self._sampled(self._encode(masked), generator)
            extra = torch.cat([cells, hidden], dim=1)
            return Start(timesteps=timesteps, latents=latents, extra=extra)
        assert image is not None
        # diffusers also encodes the masked picture here and does not use the result. We only make
        # the same draw, so that the generator stands where it stands in diffusers.
        self._noise(generator)
        blend = Blend(mask=cells, image=image, noise=noise)
        return Start(timesteps=timesteps, latents=latents, blend=blend)

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        noise: torch.Tensor = randn_tensor(
            self.shape, generator=generator, device=self._model.device, dtype=self._model.dtype
        )
        return noise

    def encoded(self, digest: str, generator: torch.Generator) -> torch.Tensor:
        """An init image's latents, sampled with the image's own generator.

        The VAE's distribution is cached by digest; only the sampling depends on the seed.
        """
        if digest not in self._encodings:
            self._encodings[digest] = self._encode(self.picture(digest))
        return self._sampled(self._encodings[digest], generator)

    def _encode(self, picture: torch.Tensor) -> Any:
        if self._vae is None:
            raise ModelError(f"model {self._model.name} can't start from a picture")
        with self._model.using("vae") as vae:
            # The picture keeps the memory format of diffusers' image processor: bits depend on it.
            encoded = vae.encode(picture.to(self._model.device, vae.dtype))
        return encoded.latent_dist

    def _sampled(self, distribution: Any, generator: torch.Generator) -> torch.Tensor:
        latents = self._vae.config.scaling_factor * distribution.sample(generator)
        sampled: torch.Tensor = latents.to(self._model.dtype)
        return sampled

    def picture(self, digest: str) -> torch.Tensor:
        """(1, 3, height, width) in [-1, 1], fp32, resized to the image's size."""
        picture = read_picture(self._inputs(digest), max_pixels=self._max_pixels)
        values: torch.Tensor = self._pictures.preprocess(picture, self._height, self._width)
        return values.float()

    def _mask(self, digest: str) -> torch.Tensor:
        """(1, 1, height, width), 1 where the model may draw (white in the file), else 0."""
        picture = read_picture(self._inputs(digest), max_pixels=self._max_pixels)
        values: torch.Tensor = self._masks.preprocess(picture, self._height, self._width)
        return values


def put_back(blend: Blend, latents: torch.Tensor, scheduler: Scheduler, time: Any) -> torch.Tensor:
    """The latents with the picture restored outside the mask.

    The picture gets the noise of the timestep `time`; None means the end, without noise.
    """
    image = blend.image
    if time is not None:
        image = _noised(scheduler, image, blend.noise, time)
    return ((1 - blend.mask) * image + blend.mask * latents).to(latents.dtype)


def _initial_sigma(scheduler: Scheduler) -> Any:
    return getattr(scheduler, "init_noise_sigma", 1.0)


def _later_timesteps(scheduler: Scheduler, steps: int, strength: float) -> torch.Tensor:
    """The timesteps that are left: a `strength` below 1 skips the first ones.

    A scheduler of order 2 has two timesteps for each step, hence `order`.
    """
    begin = steps - min(int(steps * strength), steps)
    if begin == steps:
        raise UsageError(
            f"strength {strength} leaves none of {steps} steps; allowed: at least {1 / steps:.3g}"
        )
    order = getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin * order)
    timesteps: torch.Tensor = scheduler.timesteps[begin * order :]
    return timesteps


def _noised(
    scheduler: Scheduler, image: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    # Flow-matching schedulers call the same operation scale_noise.
    if hasattr(scheduler, "add_noise"):
        noised: torch.Tensor = scheduler.add_noise(image, noise, time)
    else:
        noised = scheduler.scale_noise(image, time, noise)
    return noised
