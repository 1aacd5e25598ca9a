"""The pictures of a specification as arguments of a pipeline's call.

Pipelines name them differently. With a ControlNet, `image` is the control picture where nothing
else is called that, and the init image where `control_image` is.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from PIL import Image

from imagemill.db.input_pictures import read_picture
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.inputs import Inputs, strength_of
from imagemill.worker.models.pipelines import Pipeline

_PICTURE_FOR_EACH = frozenset({"QwenImageEditPipeline"})
"""Editing pipelines that want a picture for each prompt. The others take one for all of them, and
would read a list as several pictures for one prompt."""

_RESAMPLING = Image.Resampling.LANCZOS
"""That of diffusers' own processors."""


class Pictures:
    """Fetches the pictures of specifications. `max_pixels` is the largest size of an input."""

    def __init__(self, *, inputs: Inputs, max_pixels: int) -> None:
        self._inputs = inputs
        self._max_pixels = max_pixels

    def arguments(
        self, spec: ImageSpec, parameters: Mapping[str, Any], *, images: int
    ) -> dict[str, Any]:
        """What a call with these parameters is given, for so many images of the specification.

        Raises `InputImageError` if a file is not there or is no picture.
        """
        found: dict[str, Any] = {}
        if spec.init_image is not None:
            found["image"] = [self._sized(spec.init_image, spec)] * images
            found["strength"] = strength_of(spec)
        if spec.mask is not None:
            found["mask_image"] = [self._sized(spec.mask, spec).convert("L")] * images
        if spec.control_image is not None:
            control = "control_image" if "control_image" in parameters else "image"
            found[control] = [self._sized(spec.control_image, spec)] * images
        if spec.controlnet is not None:
            found["controlnet_conditioning_scale"] = spec.control_scale
        return found

    def edited(self, spec: ImageSpec, pipeline: Pipeline, *, images: int) -> dict[str, Any]:
        """The picture that an editing pipeline changes, in the size of its file."""
        if spec.reference_image is None or spec.ip_adapter is not None:
            return {}
        picture = self._read(spec.reference_image)
        each = type(pipeline).__name__ in _PICTURE_FOR_EACH and images > 1
        return {"image": [picture] * images if each else picture}

    def embedded(self, spec: ImageSpec, pipeline: Pipeline, *, images: int) -> dict[str, Any]:
        """The reference picture as its IP-Adapter's image encoder reads it.

        A pipeline takes several pictures for one prompt, but no picture for each prompt. Embeddings
        it takes in rows: first the negative ones, if there are any, then those of the pictures.
        Flux and SD 3 repeat the rows themselves; Flux reads its negative picture, a black one.
        """
        if spec.ip_adapter is None or spec.reference_image is None:
            return {}
        has_unet = "unet" in pipeline.components
        guided = spec.guided and not (has_unet and pipeline.unet.config.time_cond_proj_dim)
        prepare = pipeline.prepare_ip_adapter_image_embeds
        flag = "do_classifier_free_guidance"
        found = prepare(
            self._read(spec.reference_image),
            None,
            pipeline._execution_device,
            1,
            **({flag: guided} if flag in inspect.signature(prepare).parameters else {}),
        )
        if has_unet:
            found = [each.repeat_interleave(images, dim=0) for each in found]
        return {"ip_adapter_image_embeds": found}

    def _read(self, digest: str) -> Image.Image:
        return read_picture(self._inputs(digest), max_pixels=self._max_pixels)

    def _sized(self, digest: str, spec: ImageSpec) -> Image.Image:
        """The picture in the image's size: some pipelines take their size from it."""
        size = (spec.width, spec.height)
        picture = self._read(digest)
        return picture if picture.size == size else picture.resize(size, resample=_RESAMPLING)
