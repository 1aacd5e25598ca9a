"""What diffusers' own pipeline classes draw for one row: the oracle that the engine must equal.

Schedulers are configured here as a user of diffusers would, not by `worker.engine.schedulers`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from imagemill.db.samplers.names import BY_NAME
from imagemill.db.specs import ImageSpec
from imagemill.worker.models.model import Model

Pixels = npt.NDArray[np.uint8]


class Oracle:
    """Renders rows of one model with diffusers' pipelines, one row at a time.

    `inputs` are the files of init images and masks by digest, of the rows' own size.
    """

    classes = (
        diffusers.StableDiffusionPipeline,
        diffusers.StableDiffusionImg2ImgPipeline,
        diffusers.StableDiffusionInpaintPipeline,
    )
    """From a prompt, from a picture, and within a mask."""

    options: Mapping[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    def __init__(self, model: Model, inputs: Mapping[str, bytes] | None = None) -> None:
        self.model = model
        self.inputs = inputs or {}
        encoder = model.components["text_encoder"]
        if not hasattr(encoder, "text_model"):
            # transformers 5 has flattened what diffusers still reaches for with a clip skip.
            # Past torch's own setattr: a module that is its own child would never end.
            object.__setattr__(encoder, "text_model", encoder)

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row as a user gets it: one prompt, one generator, one image."""
        result = self._pipeline(spec, copies=1)(**_texts(spec), **self._arguments(spec))
        return np.asarray(result.images[0])

    def together(self, specs: Sequence[ImageSpec]) -> list[Pixels]:
        """Rows that differ in prompt and seed alone, as a script renders a list of prompts."""
        first = specs[0]
        result = self._pipeline(first, copies=len(specs))(
            prompt=[spec.prompt for spec in specs],
            negative_prompt=[spec.negative_prompt for spec in specs],
            generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in specs],
            **self._arguments(first),
        )
        return [np.asarray(image) for image in result.images]

    def same_shape(
        self,
        spec: ImageSpec,
        *,
        slots: int,
        embeddings: tuple[torch.Tensor, torch.Tensor | None] | None = None,
    ) -> Pixels:
        """The row with the engine's shapes: `slots` copies denoised, one text and one decoding.

        Equal bits are expected of this one. `embeddings` stand for the prompt and the negative
        prompt where diffusers' pipeline can't encode them itself (long ones, weighted ones).
        """
        pipeline = self._pipeline(spec, copies=slots)
        generators = [torch.Generator("cpu").manual_seed(spec.seed) for _ in range(slots)]
        arguments = self._arguments(spec) | {"output_type": "latent", "generator": generators}
        latents = self._latents(pipeline, spec, arguments, embeddings)
        with torch.inference_mode():
            values = pipeline.vae.decode(latents[:1] / pipeline.vae.config.scaling_factor).sample
        return np.asarray(pipeline.image_processor.postprocess(values.detach())[0])

    def _latents(
        self,
        pipeline: Any,
        spec: ImageSpec,
        arguments: Mapping[str, Any],
        embeddings: Sequence[torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        """What a pipeline draws for as many copies of a row as there are generators."""
        given = dict(arguments)
        skip = given.pop("clip_skip", None)  # it is in the embeddings
        encoded = embeddings or self._encode(pipeline, spec, skip)
        slots = len(given["generator"])
        latents: torch.Tensor = pipeline(
            **{
                name: None if text is None else text.repeat(slots, *[1] * (text.ndim - 1))
                for name, text in zip(_EMBEDDINGS, encoded, strict=False)
            },
            **given,
        ).images
        return latents

    def _encode(
        self, pipeline: Any, spec: ImageSpec, skip: int | None
    ) -> Sequence[torch.Tensor | None]:
        """The texts of a row as `_EMBEDDINGS` names them, each of one row."""
        encoded: Sequence[torch.Tensor | None] = pipeline.encode_prompt(
            spec.prompt, self.model.device, 1, spec.guided, spec.negative_prompt, clip_skip=skip
        )
        return encoded

    def _pipeline(self, spec: ImageSpec, *, copies: int) -> Any:
        from_prompt, from_picture, within_mask = self.classes
        pipeline_class = from_prompt
        if spec.mask is not None:
            pipeline_class = within_mask
        elif spec.init_image is not None:
            pipeline_class = from_picture
        pipeline = pipeline_class(
            **self.model.components, scheduler=self._scheduler(spec, copies), **self.options
        )
        pipeline.set_progress_bar_config(disable=True)
        prepare = pipeline.prepare_latents
        # A picture's latents leave the encoder in another memory format, which changes the last
        # bit of a convolution; the engine has one format, as it has one shape.
        pipeline.prepare_latents = lambda *args, **kwargs: _contiguous(prepare(*args, **kwargs))
        return pipeline

    def _scheduler(self, spec: ImageSpec, copies: int) -> Any:
        sampler = BY_NAME[spec.sampler]
        options = dict(sampler.options) | dict(spec.sampler_options)
        options.pop("eta", None)
        sigmas = options.pop("sigmas", None)
        if sigmas is not None:
            options[f"use_{sigmas}_sigmas"] = True
        scheduler_class = getattr(diffusers, sampler.diffusers_class)
        if sampler.name.startswith("dpmpp_sde"):
            options["noise_sampler_seed"] = [spec.seed] * copies if copies > 1 else spec.seed
        scheduler = scheduler_class.from_config(dict(self.model.scheduler_config), **options)
        if not hasattr(scheduler, "init_noise_sigma"):
            # This pipeline class multiplies the noise by it; flow samplers lack it.
            scheduler.init_noise_sigma = 1.0
            scheduler.scale_model_input = lambda sample, timestep: sample
            scheduler.add_noise = lambda image, noise, time: scheduler.scale_noise(
                image, time, noise
            )
        return scheduler

    def _arguments(self, spec: ImageSpec) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "num_inference_steps": spec.steps,
            "guidance_scale": spec.guidance_scale,
            "eta": float(dict(spec.sampler_options).get("eta", 0.0)),
            "clip_skip": spec.clip_skip - 1 or None,
        }
        size = {"width": spec.width, "height": spec.height}
        if spec.init_image is None:
            return arguments | size | {"guidance_rescale": spec.guidance_rescale}
        arguments["image"] = self._input(spec.init_image)
        if spec.strength is not None:
            arguments["strength"] = spec.strength
        if spec.mask is not None:
            arguments |= size | {"mask_image": self._input(spec.mask)}
        return arguments

    def _input(self, digest: str) -> Image.Image:
        return Image.open(io.BytesIO(self.inputs[digest])).convert("RGB")


class XLOracle(Oracle):
    """As `Oracle`, for models of two text encoders.

    Left out, a negative prompt is zeros there; written as nothing, it would be encoded.
    """

    classes = (
        diffusers.StableDiffusionXLPipeline,
        diffusers.StableDiffusionXLImg2ImgPipeline,
        diffusers.StableDiffusionXLInpaintPipeline,
    )
    options: Mapping[str, Any] = {"add_watermarker": False}

    def _encode(
        self, pipeline: Any, spec: ImageSpec, skip: int | None
    ) -> Sequence[torch.Tensor | None]:
        encoded: Sequence[torch.Tensor | None] = pipeline.encode_prompt(
            prompt=spec.prompt,
            device=self.model.device,
            do_classifier_free_guidance=spec.guided,
            negative_prompt=spec.negative_prompt or None,
            clip_skip=skip,
        )
        return encoded


class RefinedOracle(XLOracle):
    """As `XLOracle`, with a second pipeline that goes on at `refiner_start`, drawing on.

    That is how diffusers' manual has a base and its refiner share a schedule; to the refiner an
    empty negative prompt is a text.
    """

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row as a user gets it."""
        texts = _texts(spec)
        first = self._arguments(spec) | {"output_type": "latent"}
        base = self._pipeline(spec, copies=1)
        latents = base(**texts, **first, denoising_end=spec.refiner_start).images
        refiner = self._refiner(spec, copies=1)
        result = refiner(**texts, **self._handed_over(spec, latents))
        return np.asarray(result.images[0])

    def _latents(
        self,
        pipeline: Any,
        spec: ImageSpec,
        arguments: Mapping[str, Any],
        embeddings: Sequence[torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        first = dict(arguments) | {"denoising_end": spec.refiner_start}
        latents = super()._latents(pipeline, spec, first, embeddings)
        generators = arguments["generator"]
        second = self._handed_over(spec, latents) | {"output_type": "latent"}
        refiner = self._refiner(spec, copies=len(generators))
        return super()._latents(refiner, spec, second | {"generator": generators})

    def _handed_over(self, spec: ImageSpec, latents: torch.Tensor) -> dict[str, Any]:
        arguments = self._arguments(replace(spec, init_image=None))
        for name in ("width", "height", "guidance_rescale"):
            del arguments[name]
        return arguments | {"image": latents, "denoising_start": spec.refiner_start}

    def _refiner(self, spec: ImageSpec, *, copies: int) -> Any:
        components = dict(self.model.components) | {"unet": self.model.refiner}
        components |= {"text_encoder": None, "tokenizer": None}
        pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
            **components,
            scheduler=self._scheduler(spec, copies),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            **self.options,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class UnconditionalOracle:
    """Renders rows of a model that draws without a prompt, with the two pipelines for such."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row as a user gets it."""
        return self.same_shape(spec, slots=1)

    def same_shape(self, spec: ImageSpec, *, slots: int) -> Pixels:
        """The row from forward passes of `slots` copies."""
        sampler = BY_NAME[spec.sampler]
        pipelines = {"ddpm": diffusers.DDPMPipeline, "ddim": diffusers.DDIMPipeline}
        scheduler = getattr(diffusers, sampler.diffusers_class).from_config(
            dict(self.model.scheduler_config), **sampler.options
        )
        pipeline = pipelines[spec.sampler](unet=self.model.components["unet"], scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        result = pipeline(
            batch_size=slots,
            num_inference_steps=spec.steps,
            generator=[torch.Generator("cpu").manual_seed(spec.seed) for _ in range(slots)],
        )
        return np.asarray(result.images[0])


_EMBEDDINGS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


def _texts(spec: ImageSpec) -> dict[str, Any]:
    """What is a row's own, for a call of one image."""
    return {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt or None,
        "generator": torch.Generator("cpu").manual_seed(spec.seed),
    }


def _contiguous(latents: Any) -> Any:
    if isinstance(latents, tuple):
        return tuple(_contiguous(part) for part in latents)
    return latents.contiguous()


def worst_difference(one: Pixels, other: Pixels) -> int:
    """The largest difference of two pictures in one value of one pixel, in 1/255."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
