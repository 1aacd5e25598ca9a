"""A second decoding, in fp32, of an image that a pipeline's autoencoder turned into NaN.

In fp16 an autoencoder overflows on some latents. A pipeline decodes inside its own call, so for
one call its autoencoder is replaced by a shallow copy whose `decode` checks its result.
"""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from imagemill.worker.models.pipelines import Pipeline


class Fp32Retry:
    """Watches the decoding of one image.

    `succeeded` says that it was decoded in fp32, `failed` that it is not finite in fp32 either. A
    pipeline may turn such values into black or white, so its picture does not show them.
    """

    def __init__(self) -> None:
        self.succeeded = False
        self.failed = False

    def watch(self, pipeline: Pipeline) -> None:
        """Replace this pipeline's autoencoders by ones that retry a broken image in fp32.

        The pipeline must be a copy made for one call. The new autoencoders share their modules
        with the old ones.
        """
        for name, component in pipeline.components.items():
            if _decodes(component):
                pipeline.__dict__[name] = self._watched(component)

    def _watched(self, autoencoder: Any) -> Any:
        found = copy.copy(autoencoder)
        decode = found.decode

        def checked(latents: Any, *args: Any, **options: Any) -> Any:
            result = decode(latents, *args, **options)
            return self._finite_result(
                found, lambda again: decode(again, *args, **options), latents, result
            )

        # A module's own __setattr__ expects parameters and submodules; this one sets a function.
        object.__setattr__(found, "decode", checked)
        return found

    def _finite_result(
        self,
        autoencoder: Any,
        decode: Callable[[torch.Tensor], Any],
        latents: torch.Tensor,
        result: Any,
    ) -> Any:
        """The result of a decoding, replaced in place where it is not finite."""
        values = _values(result)
        if _finite(values):
            return result
        dtype = autoencoder.dtype
        if dtype == torch.float32 or not _finite(latents):
            self.failed = True
            return result
        autoencoder.to(torch.float32)
        try:
            again = _values(decode(latents.float()))
        finally:
            autoencoder.to(dtype)
        self.failed = not _finite(again)
        if not self.failed:
            values.copy_(again)
            self.succeeded = True
        return result


def _decodes(component: object) -> bool:
    return isinstance(component, diffusers.ModelMixin) and hasattr(component, "decode")


def _values(result: Any) -> torch.Tensor:
    """The values of an autoencoder's `decode`, (rows, …), with or without `return_dict`."""
    values: torch.Tensor = result[0]
    return values


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())
