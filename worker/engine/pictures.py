"""Latents → pixels: decoded in batches of a fixed shape, converted on the device, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imagemill.db.states import Outcome
from imagemill.worker.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded image: pixels (height, width, 3), uint8, and the outcome of the checks.

    `changes` holds the fields of the environment that differed for this image: the decoder ran
    in fp32 because its usual precision gave NaN, or in tiles because memory was short.
    """

    pixels: npt.NDArray[np.uint8]
    outcome: Outcome
    changes: Mapping[str, Any] = field(default_factory=dict)


class Decoder:
    """Decodes finished latents, always `rows` at a time.

    Missing rows are filled with zeros. The decoder thus always sees the same shape, and an
    image's pixels do not depend on how many images were finished together.
    """

    def __init__(self, model: Model, *, rows: int) -> None:
        self._model = model
        self._vae: Any = model.components.get("vae")
        self._rows = rows
        self._vae_dtype = None if self._vae is None else self._vae.dtype

    def pictures(self, latents: Sequence[torch.Tensor]) -> list[Picture]:
        """The pictures of finished images; each has latents (1, channels, height, width).

        If memory runs out, decoding is tried once more in tiles.
        """
        if self._vae is None or not latents:
            return self._decoded(latents, {})
        with self._model.using("vae"):
            try:
                return self._decoded(latents, {})
            except torch.OutOfMemoryError:
                if self._model.tuning.vae_tiling:
                    raise
            self._vae.enable_tiling()
            try:
                return self._decoded(latents, {"vae_tiling": True})
            finally:
                # Otherwise the next image would depend on whether this one ran out of memory.
                self._vae.disable_tiling()

    def _decoded(
        self, latents: Sequence[torch.Tensor], changes: Mapping[str, Any]
    ) -> list[Picture]:
        found: list[Picture] = []
        for start in range(0, len(latents), self._rows):
            some = [row.contiguous() for row in latents[start : start + self._rows]]
            padding = [torch.zeros_like(some[0])] * (self._rows - len(some))
            values = self._decode(torch.cat(some + padding))[: len(some)]
            found += [
                self._judged(row, values[index : index + 1], changes)
                for index, row in enumerate(some)
            ]
        return found

    def _judged(
        self, latents: torch.Tensor, values: torch.Tensor, changes: Mapping[str, Any]
    ) -> Picture:
        if _finite(values):
            return _picture(values, changes)
        if self._vae is None or self._vae_dtype == torch.float32 or not _finite(latents):
            return _black(values)
        values = self._decode_in_fp32(latents)
        if _finite(values):
            return _picture(values, {**changes, "vae_dtype": "fp32"})
        return _black(values)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Values of about [-1, 1], of the shape (rows, 3, height, width)."""
        if self._vae is None:
            return latents
        config = self._vae.config
        latents = latents.to(self._vae.dtype)
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (
                torch.tensor(values).view(1, -1, 1, 1).to(latents.device, latents.dtype)
                for values in (config.latents_mean, config.latents_std)
            )
            scaled = latents * std / config.scaling_factor + mean
        else:
            scaled = latents / config.scaling_factor
        scaled = scaled.contiguous(memory_format=self._model.tuning.memory_format)
        values: torch.Tensor = self._vae.decode(scaled, return_dict=False)[0]
        return values

    def _decode_in_fp32(self, latents: torch.Tensor) -> torch.Tensor:
        """Like `_decode`, for one row in fp32: in fp16 a VAE overflows on some latents."""
        self._vae.to(torch.float32)
        try:
            rows = [latents] + [torch.zeros_like(latents)] * (self._rows - 1)
            return self._decode(torch.cat(rows))[:1]
        finally:
            self._vae.to(self._vae_dtype)


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())


def _picture(values: torch.Tensor, changes: Mapping[str, Any]) -> Picture:
    # The same operations in the same order and precision as diffusers' image processor, so that
    # every pixel is rounded the same way. They run on the device: then only bytes are copied.
    unit = (values * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
    pixels = (unit * 255).round().to(torch.uint8)[0].cpu().numpy()
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    flat = pixels.reshape(-1, pixels.shape[-1])
    uniform = bool((flat == flat[0]).all())
    outcome = Outcome.BLANK if uniform else Outcome.OK
    return Picture(pixels=pixels, outcome=outcome, changes=changes)


def _black(values: torch.Tensor) -> Picture:
    _, _, height, width = values.shape
    return Picture(pixels=np.zeros((height, width, 3), np.uint8), outcome=Outcome.NAN)
