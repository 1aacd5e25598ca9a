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
from tools.parity.oracle import Pixels

GUIDANCE: Mapping[str, str] = {"flux_schnell": "true_cfg_scale", "qwen_image": "true_cfg_scale"}
"""What a family calls its guidance scale, where it is not `guidance_scale`."""

NO_NEGATIVES = frozenset({"flux_2_klein", "flux_dev", "latent_consistency"})
PADDED_TEXTS: Mapping[str, tuple[int, ...]] = dict.fromkeys(
    ("qwen_image", "qwen_image_edit", "qwen_image_edit_plus"), (128, 256, 512, 1024)
)
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
        with repeated(self._pipeline, self._family, slots):
            return self.alone(spec)


@contextmanager
def repeated(pipeline: Any, family: str, times: int) -> Iterator[None]:
    """Give every call of a pipeline's denoiser, and of its ControlNet, its rows so many times."""
    if times == 1:
        yield
        return
    denoiser = pipeline.components.get("transformer") or pipeline.components["unet"]
    controlnet = pipeline.components.get("controlnet")
    lengths = PADDED_TEXTS.get(family)
    denoiser.forward = _repeating(denoiser.forward, times, lengths, last=True)
    if controlnet is not None:
        controlnet.forward = _repeating(controlnet.forward, times, None, last=False)
    try:
        yield
    finally:
        del denoiser.forward
        if controlnet is not None:
            del controlnet.forward


def _repeating(
    forward: Callable[..., Any], times: int, lengths: tuple[int, ...] | None, *, last: bool
) -> Callable[..., Any]:
    """`last` is the denoiser, whose answer may be a list of rows. A ControlNet's has layers."""

    def repeated_call(*args: Any, **kwargs: Any) -> Any:
        if lengths is not None:
            kwargs = _with_padded_text(kwargs, lengths)
        rows = rows_of(args, kwargs)
        args, kwargs = _changed_rows((args, kwargs), rows, lambda each: each * times)
        answer = forward(*args, **kwargs)
        return (answer[0][:rows],) if last else _first_rows(answer, rows)

    return repeated_call


def rows_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The rows of a denoiser's call: its latents are its first argument."""
    named = (kwargs[name] for name in ("hidden_states", "sample", "x") if name in kwargs)
    return len(args[0] if args else next(named))


def taken_rows(call: tuple[Any, ...], rows: int, which: slice) -> Any:
    """The arguments of a call of so many rows, with some of the rows."""
    return _changed_rows(call, rows, lambda each: each[which])


_FOR_EACH_LAYER = (
    *("controlnet_block_samples", "controlnet_single_block_samples", "controlnet_samples"),
    *("block_controlnet_hidden_states", "down_block_additional_residuals"),
    *("image_embeds", "ip_adapter_image_embeds"),
)
"""Arguments that are lists of tensors of all rows, one for each layer or adapter. Other lists have
an item for each row."""


def _changed_rows(value: Any, rows: int, change: Callable[[list[Any]], list[Any]]) -> Any:
    """Everything that has an item for each row, with the rows that `change` makes of them."""
    if torch.is_tensor(value):
        if not value.ndim or len(value) != rows:
            return value
        return torch.cat(change(list(value.split(1))))
    if isinstance(value, list) and len(value) == rows:
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed_rows(each, rows, change) for each in value)
    if isinstance(value, dict):
        return {
            key: [_changed_rows(one, rows, change) for one in each]
            if key in _FOR_EACH_LAYER and isinstance(each, list | tuple)
            else _changed_rows(each, rows, change)
            for key, each in value.items()
        }
    return value


def _first_rows(answer: Any, rows: int) -> Any:
    """The first rows of a ControlNet's answer: tensors, and lists of them."""
    if torch.is_tensor(answer):
        return answer[:rows]
    if answer is None:
        return None
    return type(answer)(_first_rows(each, rows) for each in answer)


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
    "PixArt with LMS": (
        "pixart_sigma",
        "lms",
        {},
        diffusers.LMSDiscreteScheduler.from_config,
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
