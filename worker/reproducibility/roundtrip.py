"""Measures what an autoencoder, and the noise of one step, leave of a picture.

The picture is encoded and decoded twice: once as it is, and once with the noise that a variation
starting at that step begins with. The noise is drawn as for a real image: the same draws in the
same order.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.samplers.names import strength_for
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.pictures import Decoder
from imagemill.worker.engine.schedulers import scheduler_for
from imagemill.worker.files.records import Pixels
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.reproduce import peak_signal_to_noise

_PICTURE = "0" * 64
"""The digest by which the engine's code asks for the picture; there is only this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Three pictures of one size: the original, decoded again, and decoded with noise.

    `timestep` is the timestep whose noise was added. `latents` is the shape of the encoded
    picture. PSNRs are in dB against the original, inf if the pictures are equal.
    """

    original: Pixels
    decoded: Pixels
    noised: Pixels
    timestep: float
    latents: tuple[int, ...]

    @property
    def decoded_psnr(self) -> float:
        """The PSNR of the decoded picture."""
        return peak_signal_to_noise(self.original, self.decoded)

    @property
    def noised_psnr(self) -> float:
        """The PSNR of the picture with noise."""
        return peak_signal_to_noise(self.original, self.noised)

    def strip(self) -> Image.Image:
        """The three pictures side by side, in that order."""
        height, width, _ = self.original.shape
        strip = Image.new("RGB", (3 * width, height))
        for place, pixels in enumerate((self.original, self.decoded, self.noised)):
            strip.paste(Image.fromarray(pixels), (place * width, 0))
        return strip

    def document(self) -> dict[str, Any]:
        """The numbers as plain values; an infinite PSNR is None."""
        height, width, _ = self.original.shape
        return {
            "width": width,
            "height": height,
            "latents": list(self.latents),
            "timestep": self.timestep,
            "decoded_psnr": _finite(self.decoded_psnr),
            "noised_psnr": _finite(self.noised_psnr),
        }


@torch.inference_mode()
def round_trip(
    model: Model,
    picture: Image.Image,
    *,
    width: int,
    height: int,
    sampler: str,
    steps: int,
    start_step: int,
    seed: int,
) -> RoundTrip:
    """Encode a picture (RGB, any size), decode it, and decode it with noise added.

    The noise is that of step `start_step` of `steps` in the sampler's schedule. Steps count from
    0, which has the most noise. Raises `ModelError` if the model has no autoencoder, and
    `UsageError` if the steps or the size do not fit.

    More than seven parameters: they are the options of `imagemill roundtrip`.
    """
    if model.components.get("vae") is None:
        raise ModelError(f"model {model.name} has no autoencoder")
    scale = model.facts.latent_scale
    if width % scale or height % scale:
        raise UsageError(f"{width}x{height}; allowed: multiples of {scale}")
    if not 0 <= start_step < steps:
        raise UsageError(f"--start-step {start_step}; allowed: 0 to {steps - 1}")
    spec = ImageSpec(
        model=model.name,
        weights_digest=model.weights_digest,
        prompt="",
        seed=seed,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=1.0,
        sampler=sampler,
        init_image=_PICTURE,
        strength=strength_for(steps=steps, start_step=start_step),
    )
    body = _png(picture)
    initial_latents = InitialLatents(
        model,
        width=width,
        height=height,
        inputs=lambda _: body,
        max_pixels=picture.width * picture.height,
    )
    start = initial_latents.variation(spec, scheduler_for(spec, model), _generator(seed))
    # A new generator with the same seed: an image's first draw is the sampling of these latents.
    latents = initial_latents.encoded(_PICTURE, _generator(seed))
    plain, noisy = Decoder(model, rows=1).pictures([latents, start.latents])
    return RoundTrip(
        original=_pixels(initial_latents.picture(_PICTURE)),
        decoded=plain.pixels,
        noised=noisy.pixels,
        timestep=float(start.timesteps[0]),
        latents=tuple(latents.shape[1:]),
    )


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _pixels(values: torch.Tensor) -> Pixels:
    """(1, 3, height, width) in [-1, 1] as pixels."""
    unit = (values.float() * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0)
    pixels: Pixels = (unit * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else round(value, 2)
