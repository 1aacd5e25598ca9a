"""What diffusers' pipelines of other families draw for one row, called by hand.

The arguments are written down family by family, so that a wrong guess of the slot engine about a
signature is a difference. The engine's shapes are made by repeating an image's own rows, without
any of the engine's code.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from torch.nn import functional

from imagemill.db.specs import ImageSpec
from tools.oracle import Pixels

GUIDANCE: Mapping[str, str] = {"flux_schnell": "true_cfg_scale", "qwen_image": "true_cfg_scale"}
"""What a family calls its guidance scale, where it is not `guidance_scale`."""

NO_NEGATIVES = frozenset({"flux_2_klein", "flux_dev", "latent_consistency"})
PADDED_TEXTS: Mapping[str, tuple[int, ...]] = {"qwen_image": (128, 256, 512, 1024)}
"""To the first of these lengths that holds it, in tokens, the engine pads a text of the family."""

EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "hunyuan_dit": {"use_resolution_binning": False},
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
        arguments = {
            "prompt": [spec.prompt],
            "width": spec.width,
            "height": spec.height,
            "num_inference_steps": spec.steps,
            GUIDANCE.get(self._family, "guidance_scale"): spec.guidance_scale,
            "generator": [torch.Generator().manual_seed(spec.seed)],
            **EXTRAS.get(self._family, {}),
        }
        if self._family not in NO_NEGATIVES and spec.guided:
            arguments["negative_prompt"] = [spec.negative_prompt]
        own = self._pipeline.scheduler
        try:
            if self._scheduler is not None:
                self._pipeline.scheduler = scheduler = self._scheduler(own.config)
                if hasattr(scheduler, "noise_sampler_seed"):
                    # One seed for all rows is a tree of its own kind; a list is one for each.
                    scheduler.noise_sampler_seed = [spec.seed]
            return np.asarray(self._pipeline(**arguments).images[0])
        finally:
            self._pipeline.scheduler = own

    def same_shape(self, spec: ImageSpec, *, slots: int) -> Pixels:
        """The row alone, but each denoiser call has its rows `slots` times, as in the engine."""
        if slots == 1:
            return self.alone(spec)
        with self._repeating(slots):
            return self.alone(spec)

    @contextmanager
    def _repeating(self, times: int) -> Iterator[None]:
        components = self._pipeline.components
        denoiser = components.get("transformer") or components["unet"]
        forward = denoiser.forward

        def repeated(*args: Any, **kwargs: Any) -> Any:
            if self._family in PADDED_TEXTS:
                kwargs = _with_padded_text(kwargs, PADDED_TEXTS[self._family])
            first = args[0] if args else kwargs["hidden_states"]
            rows = len(first)
            args, kwargs = _repeat((args, kwargs), rows, times)
            (output,) = forward(*args, **kwargs)
            return (output[:rows],)

        denoiser.forward = repeated
        try:
            yield
        finally:
            del denoiser.forward


def _repeat(value: Any, rows: int, times: int) -> Any:
    """Everything that has an item for each row, that many times."""
    if torch.is_tensor(value):
        return torch.cat([value] * times) if value.ndim and len(value) == rows else value
    if isinstance(value, list) and len(value) == rows:
        return value * times
    if isinstance(value, tuple):
        return tuple(_repeat(each, rows, times) for each in value)
    if isinstance(value, dict):
        return {key: _repeat(each, rows, times) for key, each in value.items()}
    return value


def _with_padded_text(kwargs: Mapping[str, Any], lengths: tuple[int, ...]) -> dict[str, Any]:
    text = kwargs["encoder_hidden_states"]
    missing = next(length for length in lengths if length >= text.shape[1]) - text.shape[1]
    return {
        **kwargs,
        "encoder_hidden_states": functional.pad(text, (0, 0, 0, missing)),
        "encoder_hidden_states_mask": functional.pad(torch.ones(text.shape[:2]), (0, missing)),
    }


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
