"""Latents → pixels: decoded in batches of a fixed shape, converted on the device, checked.

It is done in two parts, so that an engine can let the device do something else in between.
"""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Pictures on their way to the host: the device may still work on them.

    `latents` has (1, channels, height, width) for each picture. `pixels` is (pictures, height,
    width, channels), uint8, and `finite` says of each whether all its values were; both are in
    main memory, and hold nothing before `arrived`, if there is such an event.
    """

    latents: Sequence[torch.Tensor]
    pixels: torch.Tensor
    finite: torch.Tensor
    changes: Mapping[str, Any]
    arrived: torch.cuda.Event | None


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
        """The pictures of finished images; each has latents (1, channels, height, width)."""
        return self.collect(self.begin(latents))

    def begin(self, latents: Sequence[torch.Tensor]) -> list[Decoding]:
        """Have the device decode, and copy pixels, without waiting for it.

        If memory runs out, decoding is tried once more in tiles.
        """
        if self._vae is None or not latents:
            return self._begun(latents, {})
        with self._model.using("vae"):
            try:
                return self._begun(latents, {})
            except torch.OutOfMemoryError:
                if self._model.tuning.vae_tiling:
                    raise
            self._vae.enable_tiling()
            try:
                return self._begun(latents, {"vae_tiling": True})
            finally:
                # Otherwise the next image would depend on whether this one ran out of memory.
                self._vae.disable_tiling()

    def collect(self, decodings: Sequence[Decoding]) -> list[Picture]:
        """The pictures, in the order of their latents; waits until they have arrived."""
        found: list[Picture] = []
        for decoding in decodings:
            if decoding.arrived is not None:
                decoding.arrived.synchronize()
            found += [
                picture_of(pixels.numpy(), decoding.changes)
                if finite
                else self._mended(latents, pixels.shape, decoding.changes)
                for latents, pixels, finite in zip(
                    decoding.latents, decoding.pixels, decoding.finite.tolist(), strict=True
                )
            ]
        return found

    def _begun(self, latents: Sequence[torch.Tensor], changes: Mapping[str, Any]) -> list[Decoding]:
        found = []
        for start in range(0, len(latents), self._rows):
            some = [row.contiguous() for row in latents[start : start + self._rows]]
            padding = [torch.zeros_like(some[0])] * (self._rows - len(some))
            values = self._decode(torch.cat(some + padding))[: len(some)]
            found.append(_sent(some, values, changes))
        return found

    def _mended(
        self, latents: torch.Tensor, shape: Sequence[int], changes: Mapping[str, Any]
    ) -> Picture:
        """The picture of values that were not finite: decoded again in fp32, or black."""
        usual = self._vae is None or self._vae_dtype == torch.float32
        if not usual and bool(latents.isfinite().all()):
            with self._model.using("vae"):
                again = _sent([latents], self._decode_in_fp32(latents), changes)
            if again.arrived is not None:
                again.arrived.synchronize()
            if bool(again.finite.all()):
                return picture_of(again.pixels[0].numpy(), {**changes, "vae_dtype": "fp32"})
        height, width, _ = shape
        return lost_picture(height, width)

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


def _sent(
    latents: Sequence[torch.Tensor], values: torch.Tensor, changes: Mapping[str, Any]
) -> Decoding:
    """Convert values (rows, channels, height, width) and send the pixels to main memory."""
    # The same operations in the same order and precision as diffusers' image processor, so that
    # every pixel is rounded the same way. They run on the device: then only bytes are copied.
    unit = (values * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
    pixels = (unit * 255).round().to(torch.uint8)
    finite = values.isfinite().flatten(1).all(dim=1)
    decoding = Decoding(
        latents=latents,
        # From a GPU these are pinned memory, which a copy without waiting needs.
        pixels=pixels.to("cpu", non_blocking=True),
        finite=finite.to("cpu", non_blocking=True),
        changes=changes,
        arrived=_event() if values.device.type == "cuda" else None,
    )
    if decoding.arrived is not None:
        decoding.arrived.record()
    return decoding


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it


def lost_picture(height: int, width: int) -> Picture:
    """What is recorded of an image whose values are not finite: black."""
    return Picture(pixels=np.zeros((height, width, 3), np.uint8), outcome=Outcome.NAN)


def picture_of(pixels: npt.NDArray[np.uint8], changes: Mapping[str, Any] | None = None) -> Picture:
    """Pixels (height, width, 1 or 3) as a picture of its own memory: does it show anything?"""
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    flat = pixels.reshape(-1, pixels.shape[-1])
    uniform = bool((flat == flat[0]).all())
    outcome = Outcome.BLANK if uniform else Outcome.OK
    return Picture(pixels=pixels.copy(), outcome=outcome, changes=changes or {})
