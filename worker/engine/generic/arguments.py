"""Images → the arguments of one call of any diffusers pipeline, as its signature takes them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from imagemill.db.errors import UsageError
from imagemill.db.samplers import BY_NAME, OWN
from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.schedulers import make_scheduler
from imagemill.worker.models.pipelines import Pipeline, copy_pipeline

PAD_PROMPT = ""
PAD_SEED = 0

_GUIDANCES = ("guidance_scale", "true_cfg_scale", "prior_guidance_scale")
"""What pipelines call a guidance scale; the first that one has is meant."""

_FIXED: Mapping[str, Any] = {
    # The size that was asked for, not the nearest that the family was trained at, resampled.
    "use_resolution_binning": False,
    # The prompt as written; diffusers' cleaning depends on which packages are installed.
    "clean_caption": False,
    "output_type": "np",
    "return_dict": True,
}


class PipelineCalls:
    """How one pipeline is called."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._name = type(pipeline).__name__
        self._parameters = inspect.signature(type(pipeline).__call__).parameters
        self._own = getattr(pipeline, "scheduler", None)
        self._guidance = self._guidance_parameter()

    def batch_key(self, spec: ImageSpec) -> tuple[object, ...]:
        """What must agree for two images of a group to share a call."""
        return (
            spec.steps,
            spec.guidance_scale,
            spec.guidance_rescale,
            spec.sampler,
            spec.sampler_options,
            spec.clip_skip,
        )

    def check(self, spec: ImageSpec) -> None:
        """A `UsageError` if the specification asks for something that the pipeline has not."""
        wanted = {
            "init_image": spec.init_image is not None,
            "mask": spec.mask is not None,
            "clip_skip": spec.clip_skip != 1 and "clip_skip" not in self._parameters,
            "guidance_rescale": spec.guidance_rescale != 0
            and "guidance_rescale" not in self._parameters,
            "negative_prompt": spec.negative_prompt != "" and spec.guided and not self._negatives,
            "long_prompts": spec.long_prompts != "truncate",
            "prompt_weighting": spec.prompt_weighting,
            "adapters": bool(spec.adapters),
        }
        for name, refused in wanted.items():
            if refused:
                raise UsageError(f"{self._name}, as a generic pipeline, takes no {name}")
        self._check_sampler(spec)

    def pipeline(self, specs: Sequence[ImageSpec], *, rows: int) -> Pipeline:
        """A pipeline for one call, with the sampler that these images (of one key) want."""
        copy = copy_pipeline(self._pipeline)
        first = specs[0]
        if first.sampler == OWN.name and not first.sampler_options:
            return copy
        seeds = [spec.seed for spec in specs] + [PAD_SEED] * (rows - len(specs))
        scheduler = make_scheduler(
            first.sampler, dict(first.sampler_options), model_config=self._config, seed=seeds[0]
        )
        if hasattr(scheduler, "noise_sampler_seed"):
            scheduler.noise_sampler_seed = seeds  # one Brownian tree a row
        copy.register_modules(scheduler=scheduler)
        return copy

    def arguments(self, specs: Sequence[ImageSpec], *, rows: int) -> dict[str, Any]:
        """The arguments for these images (of one key), padded to `rows` with constant ones."""
        first = specs[0]
        padding = rows - len(specs)
        seeds = [spec.seed for spec in specs] + [PAD_SEED] * padding
        offered = {
            **_FIXED,
            "prompt": [spec.prompt for spec in specs] + [PAD_PROMPT] * padding,
            "height": first.height,
            "width": first.width,
            "num_inference_steps": first.steps,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        }
        if "prompt" not in self._parameters:
            offered["batch_size"] = rows
        if self._guidance is not None:
            offered[self._guidance] = first.guidance_scale
        if first.guided and self._negatives:
            negatives = [spec.negative_prompt for spec in specs]
            offered["negative_prompt"] = negatives + [PAD_PROMPT] * padding
        if first.guidance_rescale != 0:
            offered["guidance_rescale"] = first.guidance_rescale
        if first.clip_skip != 1:
            offered["clip_skip"] = first.clip_skip - 1
        options = dict(first.sampler_options)
        if "eta" in options:
            offered["eta"] = options["eta"]
        return {name: value for name, value in offered.items() if name in self._parameters}

    @property
    def kept_tokens(self) -> int | None:
        """The tokens of a prompt that a call keeps, where that is an argument: its default."""
        parameter = self._parameters.get("max_sequence_length")
        default = None if parameter is None else parameter.default
        return default if isinstance(default, int) else None

    @property
    def _config(self) -> Mapping[str, Any]:
        """The configuration of the model's own sampler."""
        own: Any = self._own
        return {**own.config, "_class_name": type(own).__name__}

    @property
    def _negatives(self) -> bool:
        """Whether negative prompts have an effect: not with guidance distilled into the model."""
        return "negative_prompt" in self._parameters and not self._distilled

    @property
    def _distilled(self) -> bool:
        transformer = self._pipeline.components.get("transformer")
        return bool(getattr(getattr(transformer, "config", None), "guidance_embeds", False))

    def _guidance_parameter(self) -> str | None:
        """The parameter that an image's guidance scale is given as.

        Where a pipeline has both, `guidance_scale` is what a distilled model takes as an input,
        and `true_cfg_scale` the classifier-free guidance of the others.
        """
        has_both = {"guidance_scale", "true_cfg_scale"} <= self._parameters.keys()
        if has_both and not self._distilled:
            return "true_cfg_scale"
        return next((name for name in _GUIDANCES if name in self._parameters), None)

    def _check_sampler(self, spec: ImageSpec) -> None:
        sampler = BY_NAME.get(spec.sampler)
        if sampler is None:
            raise UsageError(f"no sampler is called {spec.sampler!r}")
        if sampler is OWN:
            return
        if self._own is None:
            raise UsageError(f"{self._name} has no sampler that could be replaced; use {OWN.name}")
        if "eta" in dict(spec.sampler_options) and "eta" not in self._parameters:
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
