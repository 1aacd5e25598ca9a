"""Decoding once more in fp32 what a pipeline's own autoencoder turned into NaN.

In fp16 an autoencoder overflows on some latents. A pipeline decodes in the middle of its call;
so its autoencoder is replaced, for one call, by a shallow copy whose `decode` looks at what
comes out.
"""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from imagemill.worker.models.pipelines import Pipeline


class Mending:
    """Watches the decoding of one call.

    `mended` are the rows that are fp32's work, `lost` those that are not finite all the same; a
    pipeline may make white or black of infinity, so that its picture does not show it.
    """

    def __init__(self) -> None:
        self.mended: set[int] = set()
        self.lost: set[int] = set()
        self._decoded = 0

    def watch(self, pipeline: Pipeline) -> None:
        """Give this pipeline autoencoders that mend what they decode.

        It must be a copy for one call: its autoencoders are replaced (their modules are shared).
        """
        for name, component in pipeline.components.items():
            if _decodes(component):
                setattr(pipeline, name, self._watched(component))

    def _watched(self, autoencoder: Any) -> Any:
        found = copy.copy(autoencoder)
        decode = found.decode

        def mended(latents: Any, *args: Any, **options: Any) -> Any:
            result = decode(latents, *args, **options)
            return self._mended(
                found, lambda again: decode(again, *args, **options), latents, result
            )

        # Past the module's own setattr, which is for parameters and submodules.
        object.__setattr__(found, "decode", mended)
        return found

    def _mended(
        self,
        autoencoder: Any,
        decode: Callable[[torch.Tensor], Any],
        latents: torch.Tensor,
        result: Any,
    ) -> Any:
        """The result of a decoding, broken rows replaced in place; others keep their bits."""
        first, self._decoded = self._decoded, self._decoded + len(latents)
        values = _values(result)
        broken = {row for row in range(len(values)) if not _finite(values[row])}
        self.lost |= {first + row for row in broken}
        worth_it = {row for row in broken if _finite(latents[row])}
        dtype = autoencoder.dtype
        if not worth_it or dtype == torch.float32:
            return result
        autoencoder.to(torch.float32)
        try:
            again = _values(decode(latents.float()))
        finally:
            autoencoder.to(dtype)
        for row in worth_it:
            if _finite(again[row]):
                values[row] = again[row].to(values.dtype)
                self.mended.add(first + row)
        self.lost -= self.mended
        return result


def _decodes(component: object) -> bool:
    return isinstance(component, diffusers.ModelMixin) and hasattr(component, "decode")


def _values(result: Any) -> torch.Tensor:
    """What an autoencoder's `decode` gives, (rows, …), with or without `return_dict`."""
    values: torch.Tensor = result[0]
    return values


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())
