"""An image → a pipeline of its own and the arguments of its call, chosen by the call's signature.

This is the one place that knows how a specification becomes a call of diffusers.
"""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
from cachetools import LRUCache

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.families import find_family
from imagemill.db.models.pipeline_inputs import PIPELINE_INPUTS, PROMPT_ONLY
from imagemill.db.samplers.names import BY_NAME, OWN
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.inputs import Inputs
from imagemill.worker.engine.schedulers import Scheduler, make_scheduler
from imagemill.worker.engine.slots.embedded_prompts import (
    EmbeddedPrompts,
    are_embedded,
    takes_embeddings,
)
from imagemill.worker.engine.slots.guidance_interval import GuidanceInterval, has_interval
from imagemill.worker.engine.slots.known_texts import KnownTexts
from imagemill.worker.engine.slots.pictures import Pictures
from imagemill.worker.models.pipelines import (
    Pipeline,
    fresh_copy,
    pipeline_class,
    template_of,
)

_GUIDANCES = (
    "guidance_scale",
    "true_cfg_scale",
    "prior_guidance_scale",
    "distilled_guidance_scale",
)
"""The names that pipelines give to the guidance scale. The first that a pipeline has is used."""

_PROMPTS = ("prompt", "negative_prompt")

_ONE_PROMPT = frozenset({"QwenImageEditPlusPipeline"})
"""Pipelines that take one prompt in a call, and draw as many images of it as they are told."""

_MOST_SAMPLERS = 64
"""How many samplers with their options are kept ready."""

_FIXED: Mapping[str, Any] = {
    # Otherwise a pipeline draws at the nearest size of its training and resamples the result.
    "use_resolution_binning": False,
    # diffusers' cleaning of a prompt depends on which packages are installed.
    "clean_caption": False,
    "output_type": "np",
    "return_dict": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCall:
    """A call that is ready to be made: `pipeline(**arguments)`.

    The pipeline is a copy made for this call; it shares the modules of the model's. `seed` is for
    torch's global generator. `cut` is the end of a prompt that its embeddings do not have.
    """

    pipeline: Pipeline
    arguments: Mapping[str, Any]
    seed: int
    interval: GuidanceInterval | None = None
    cut: str | None = None


class PipelineCalls:
    """Makes the calls of one model's pipeline.

    `inputs` fetches input pictures by digest, of at most `max_pixels`. `controlnet` is the module
    that reads control pictures, if the group has one. `prompts` encodes the prompts that the
    pipeline does not read itself, if it takes embeddings.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        inputs: Inputs,
        max_pixels: int,
        controlnet: Any = None,
        prompts: EmbeddedPrompts | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._controlnet = controlnet
        self._prompts = prompts
        self._name = type(pipeline).__name__
        self._pipeline_inputs = PIPELINE_INPUTS.get(self._name, PROMPT_ONLY)
        self._pictures = Pictures(inputs=inputs, max_pixels=max_pixels)
        self._family = find_family(self._name, denoiser=self._denoiser_config)
        self._parameters = _parameters(pipeline.__class__)
        self._own = getattr(pipeline, "scheduler", None)
        self._texts = KnownTexts()
        self._templates: dict[Any, Pipeline] = {}
        self._samplers: LRUCache[Hashable, Scheduler] = LRUCache(_MOST_SAMPLERS)

    def check(self, spec: ImageSpec) -> None:
        """Raise `UsageError` if the specification asks for something that the pipeline lacks."""
        parameters = _parameters(self._kind(spec))
        controlled = self._pipeline_inputs.own_control or spec.controlnet is not None
        adapted = spec.ip_adapter is not None and "ip_adapter_image_embeds" in parameters
        referred = self._pipeline_inputs.reference != "no" or adapted
        interval = (spec.guidance_start, spec.guidance_end) != (0, 1)
        embedded = self._prompts is not None and takes_embeddings(parameters)
        wanted = {
            "control_image": spec.control_image is not None and not controlled,
            "reference_image": spec.reference_image is not None and not referred,
            "guidance interval": interval and self._distilled,
            "clip_skip": spec.clip_skip != 1 and "clip_skip" not in parameters,
            "guidance_rescale": spec.guidance_rescale != 0 and "guidance_rescale" not in parameters,
            "negative_prompt": spec.negative_prompt != ""
            and spec.guided
            and not self._reads_negatives(parameters),
            "long_prompts": spec.long_prompts != "truncate" and not embedded,
            "prompt_weighting": spec.prompt_weighting and not embedded,
        }
        for name, refused in wanted.items():
            if refused:
                kind = self._kind(spec).__name__
                raise UsageError(f"{kind}, as a generic pipeline, takes no {name}")
        if spec.controlnet is not None and self._controlnet is None:
            raise ModelError("an image with a ControlNet in an engine without: not of this group")
        self._check_sampler(spec, parameters)

    def call(self, spec: ImageSpec, *, images: int = 1) -> PipelineCall:
        """The call for an image, or for several of the same specification with other seeds."""
        seeds = [(spec.seed + n) % 2**64 for n in range(images)]
        pipeline = self._copied(spec, seeds)
        parameters = _parameters(self._kind(spec))
        offered = self._arguments(spec, seeds, parameters)
        offered |= self._pictures.arguments(spec, parameters, images=images)
        offered |= self._pictures.edited(spec, pipeline, images=images)
        offered |= self._pictures.embedded(spec, pipeline, images=images)
        cut = None
        if self._prompts is not None and are_embedded(spec):
            offered = {name: value for name, value in offered.items() if name not in _PROMPTS}
            offered |= self._prompts.arguments(spec, images=images)
            cut = self._prompts.cut(spec)
        return PipelineCall(
            pipeline=pipeline,
            arguments={name: value for name, value in offered.items() if name in parameters},
            seed=spec.seed,
            # With two images, the call is made only to see its arguments.
            interval=GuidanceInterval(spec, pipeline)
            if has_interval(spec) and images == 1
            else None,
            cut=cut,
        )

    def _kind(self, spec: ImageSpec) -> Any:
        """The class of pipelines that draws the specification; a `UsageError` if there is none."""
        picture, mask = spec.init_image is not None, spec.mask is not None
        controlled = spec.controlnet is not None
        if not (picture or mask or controlled):
            return type(self._pipeline)
        name = self._pipeline_inputs.class_for(picture=picture, mask=mask, controlled=controlled)
        what = "mask" if mask else "init_image" if picture else "control_image"
        if not name:
            beside = " beside a control_image" if controlled and (picture or mask) else ""
            raise UsageError(f"{self._name}, as a generic pipeline, takes no {what}{beside}")
        return pipeline_class(name)

    def _copied(self, spec: ImageSpec, seeds: Sequence[int]) -> Pipeline:
        """A copy of the pipeline, with the image's sampler."""
        copy = fresh_copy(self._template(spec))
        for component in copy.components.values():
            # HunyuanImage guides by such an object, and its call has no argument for the scale.
            if isinstance(component, diffusers.BaseGuidance):
                component.guidance_scale = max(1.0, spec.guidance_scale)
        if spec.sampler == OWN.name and not spec.sampler_options:
            return copy
        scheduler = deepcopy(self._sampler(spec))
        if hasattr(scheduler, "noise_sampler_seed"):
            # With a list there is a Brownian tree for each row; one seed is a tree for all.
            scheduler.noise_sampler_seed = list(seeds)
        copy.register_modules(scheduler=scheduler)
        return copy

    def _sampler(self, spec: ImageSpec) -> Scheduler:
        """A scheduler of the specification's sampler of which every image gets a copy."""
        key = spec.sampler, spec.sampler_options
        if key not in self._samplers:
            self._samplers[key] = make_scheduler(
                spec.sampler, dict(spec.sampler_options), model_config=self._config, seed=0
            )
        return self._samplers[key]

    def _template(self, spec: ImageSpec) -> Pipeline:
        """The pipeline of the specification's class of which every image gets a copy."""
        kind = self._kind(spec)
        if kind not in self._templates:
            added = {} if spec.controlnet is None else {"controlnet": self._controlnet}
            self._templates[kind] = template = template_of(self._pipeline, kind, **added)
            self._texts.remember(template)
        return self._templates[kind]

    def _arguments(
        self, spec: ImageSpec, seeds: Sequence[int], parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        images = len(seeds)
        prompts = 1 if self._name in _ONE_PROMPT else images
        offered = {
            **_FIXED,
            "prompt": [spec.prompt] * prompts,
            "height": spec.height,
            "width": spec.width,
            "max_area": spec.width * spec.height,  # FLUX.1 Kontext draws pictures of this area
            "num_inference_steps": spec.steps,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        }
        if images > prompts:
            offered["num_images_per_prompt"] = images
        if "prompt" not in parameters:
            offered["batch_size"] = images
        guidance = self._guidance_parameter(parameters)
        if guidance is not None:
            offered[guidance] = spec.guidance_scale
        if spec.guided and self._reads_negatives(parameters):
            offered["negative_prompt"] = [spec.negative_prompt] * prompts
        if spec.guidance_rescale != 0:
            offered["guidance_rescale"] = spec.guidance_rescale
        if spec.clip_skip != 1:
            offered["clip_skip"] = spec.clip_skip - 1
        options = dict(spec.sampler_options)
        if "eta" in options:
            offered["eta"] = options["eta"]
        return offered

    @property
    def kept_tokens(self) -> int | None:
        """How many tokens of a prompt a call keeps; None if the pipeline has no such argument.

        It is the default of `max_sequence_length`, because we never pass another value.
        """
        parameter = self._parameters.get("max_sequence_length")
        default = None if parameter is None else parameter.default
        return default if isinstance(default, int) else None

    @property
    def _config(self) -> Mapping[str, Any]:
        """The configuration of the model's own sampler."""
        own: Any = self._own
        return {**own.config, "_class_name": type(own).__name__}

    def _reads_negatives(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a negative prompt has an effect. It has none on a guidance-distilled model."""
        return "negative_prompt" in parameters and not self._distilled

    @property
    def _distilled(self) -> bool:
        return bool(self._denoiser_config.get("guidance_embeds", False))

    @property
    def _denoiser_config(self) -> Mapping[str, Any]:
        transformer = self._pipeline.components.get("transformer")
        return getattr(transformer, "config", {})

    def _guidance_parameter(self, parameters: Mapping[str, Any]) -> str | None:
        """The name of the parameter that takes an image's guidance scale.

        The family's row says it. Some pipelines of unknown families have two. Then `guidance_scale`
        is an input of guidance-distilled models, and `true_cfg_scale` is the classifier-free
        guidance of all others.
        """
        if self._family is not None and self._family.guidance in parameters:
            return self._family.guidance
        has_both = {"guidance_scale", "true_cfg_scale"} <= parameters.keys()
        if has_both and not self._distilled:
            return "true_cfg_scale"
        return next((name for name in _GUIDANCES if name in parameters), None)

    def _check_sampler(self, spec: ImageSpec, parameters: Mapping[str, Any]) -> None:
        sampler = BY_NAME.get(spec.sampler)
        if sampler is None:
            raise UsageError(f"no sampler is called {spec.sampler!r}")
        if sampler is OWN:
            return
        if self._own is None:
            raise UsageError(f"{self._name} has no sampler that could be replaced; use {OWN.name}")
        if "eta" in dict(spec.sampler_options) and "eta" not in parameters:
            raise UsageError(f"{self._name} takes no eta")
        own_class = type(self._own).__name__
        flow = own_class.startswith("FlowMatch") or (
            self._config.get("prediction_type") == "flow_prediction"
        )
        if sampler.flow != flow and sampler.diffusers_class != own_class:
            suits = "flow-matching samplers" if flow else "samplers that are not flow-matching"
            raise UsageError(
                f"sampler {sampler.name}: {self._name} here takes {suits}, or {OWN.name}"
            )


@cache
def _parameters(kind: type[Any]) -> Mapping[str, Any]:
    """The parameters of the calls of a class of pipelines."""
    return inspect.signature(kind.__call__).parameters
