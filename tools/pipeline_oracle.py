"""What diffusers' pipelines of other families draw for one row, called by hand.

The arguments are written down family by family, so that a wrong guess of the generic engine about
a signature is a difference.
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch

from imagemill.db.specs import ImageSpec
from tools.oracle import Pixels

GUIDANCE: Mapping[str, str] = {"flux_schnell": "true_cfg_scale", "qwen_image": "true_cfg_scale"}
"""What a family calls its guidance scale, where it is not `guidance_scale`."""

NO_NEGATIVES = frozenset({"flux_dev", "latent_consistency"})
EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "pixart_sigma": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False},
}


class PipelineOracle:
    """Renders rows with one family's pipeline, whatever model they name.

    `scheduler` makes another sampler out of the configuration of the pipeline's own.
    """

    def __init__(
        self, family: str, pipeline: Any, scheduler: Callable[[Any], Any] | None = None
    ) -> None:
        self._family = family
        self._pipeline = pipeline
        self._scheduler = scheduler

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row as a user gets it: one prompt, one generator, one image."""
        return self.same_shape(spec, slots=1)

    def same_shape(self, spec: ImageSpec, *, slots: int) -> Pixels:
        """The row drawn first of `slots`; the others have no prompt."""
        seeds = [spec.seed] + [0] * (slots - 1)
        arguments = {
            "prompt": [spec.prompt] + [""] * (slots - 1),
            "width": spec.width,
            "height": spec.height,
            "num_inference_steps": spec.steps,
            GUIDANCE.get(self._family, "guidance_scale"): spec.guidance_scale,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            **EXTRAS.get(self._family, {}),
        }
        if self._family not in NO_NEGATIVES and spec.guided:
            arguments["negative_prompt"] = [spec.negative_prompt] + [""] * (slots - 1)
        own = self._pipeline.scheduler
        try:
            if self._scheduler is not None:
                self._pipeline.scheduler = scheduler = self._scheduler(own.config)
                if hasattr(scheduler, "noise_sampler_seed"):
                    # One seed for all rows is a tree of its own kind; a list is one for each.
                    scheduler.noise_sampler_seed = seeds
            return np.asarray(self._pipeline(**arguments).images[0])
        finally:
            self._pipeline.scheduler = own


SAMPLERS: Mapping[str, tuple[str, str, dict[str, Any], Callable[[Any], Any]]] = {
    "SD 3 with flow Heun": (
        "stable_diffusion_3",
        "flow_heun",
        {},
        diffusers.FlowMatchHeunDiscreteScheduler.from_config,
    ),
    "SD 3 with its own, shifted": (
        "stable_diffusion_3",
        "own",
        {"shift": 7.0},
        lambda config: diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, shift=7.0),
    ),
    "SD 3 with flow DPM++ 2M": (
        "stable_diffusion_3",
        "flow_dpmpp_2m",
        {},
        lambda config: diffusers.DPMSolverMultistepScheduler.from_config(
            config, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    ),
    "Sana with flow Euler": (
        "sana",
        "flow_euler",
        {},
        lambda config: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    "PixArt with Euler": (
        "pixart_sigma",
        "euler",
        {},
        diffusers.EulerDiscreteScheduler.from_config,
    ),
    "PixArt with ancestral noise": (
        "pixart_sigma",
        "euler_a",
        {},
        diffusers.EulerAncestralDiscreteScheduler.from_config,
    ),
    "PixArt with a Brownian tree": (
        "pixart_sigma",
        "dpmpp_sde",
        {},
        diffusers.DPMSolverSDEScheduler.from_config,
    ),
}
"""Title → family, sampler, its options, and how a user of diffusers makes the same one."""
