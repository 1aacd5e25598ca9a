"""Which samplers diffusers' pipelines can work with, known without torch.

Any sampler suits a model that predicts what the sampler integrates; but some pipelines make their
schedule themselves and hand it to the scheduler, and not every scheduler takes one.
`tests/oracle/test_slots.py` holds this table to the installed diffusers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_EULER = frozenset({"flow_euler"})
_SIGMAS = frozenset({"flow_euler", "flow_unipc"})
"""Their schedulers take a list of sigmas."""

_SAMPLERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ChromaPipeline": _SIGMAS,
        "ChromaImg2ImgPipeline": _SIGMAS,
        "ChromaInpaintPipeline": _SIGMAS,
        "CogView4Pipeline": _EULER,
        "CogView4ControlPipeline": _EULER,
        # It makes no schedule for a sampler with flow sigmas. Those with a picture do.
        "FluxPipeline": _SIGMAS | {"flow_dpmpp_2m"},
        "FluxImg2ImgPipeline": _SIGMAS,
        "FluxInpaintPipeline": _SIGMAS,
        "FluxControlNetPipeline": _SIGMAS,
        "FluxControlNetImg2ImgPipeline": _SIGMAS,
        "FluxControlNetInpaintPipeline": _SIGMAS,
        "FluxControlPipeline": _SIGMAS,
        "FluxControlImg2ImgPipeline": _SIGMAS,
        "FluxControlInpaintPipeline": _SIGMAS,
        "FluxKontextPipeline": _SIGMAS,
        "Flux2Pipeline": _SIGMAS,
        "Flux2KleinPipeline": _SIGMAS,
        "LatentConsistencyModelPipeline": frozenset({"lcm", "tcd"}),
        "LatentConsistencyModelImg2ImgPipeline": frozenset({"lcm", "tcd"}),
        "Lumina2Pipeline": _SIGMAS,
        "QwenImagePipeline": _SIGMAS,
        "QwenImageImg2ImgPipeline": _SIGMAS,
        "QwenImageInpaintPipeline": _SIGMAS,
        "QwenImageControlNetPipeline": _SIGMAS,
        "QwenImageEditPipeline": _SIGMAS,
        "QwenImageEditPlusPipeline": _SIGMAS,
        "ZImagePipeline": _EULER,
        "ZImageImg2ImgPipeline": _EULER,
        "ZImageInpaintPipeline": _EULER,
    }
)


def samplers_of(pipeline_class: str) -> frozenset[str] | None:
    """The samplers besides its own that a class of pipelines works with; None: all that suit."""
    return _SAMPLERS.get(pipeline_class)


WITHOUT_SHIFT = frozenset(
    {
        "AuraFlowPipeline",
        "HunyuanImagePipeline",
        "OmniGenPipeline",
        "SanaPipeline",
        "SanaSprintPipeline",
    }
)
"""Pipelines of flow-matching models that tell their scheduler no shift by the picture's size."""


def shift_problem(
    pipeline_class: str, sampler_class: str, config: Mapping[str, Any]
) -> tuple[str, str] | None:
    """What is wrong with `use_dynamic_shifting` for a pipeline, and what is allowed.

    `config` is what `sampler_config` gives. With that option a scheduler wants a shift from its
    pipeline: most fail without one, and the DPM-Solvers pass over it.
    """
    if config.get("use_dynamic_shifting"):
        if pipeline_class in WITHOUT_SHIFT:
            found = f"use_dynamic_shifting = True: diffusers' {pipeline_class} gives no shift"
            return found, "use_dynamic_shifting: false"
    elif pipeline_class == "FluxPipeline" and sampler_class == "DPMSolverMultistepScheduler":
        # This class refuses a shift that it was not made for.
        found = f"use_dynamic_shifting = False: diffusers' {pipeline_class} always gives a shift"
        return found, "use_dynamic_shifting: true, or flow_euler"
    return None
