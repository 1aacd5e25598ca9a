"""Which samplers diffusers' pipelines can work with, known without torch.

Any sampler suits a model that predicts what the sampler integrates; but some pipelines make their
schedule themselves and hand it to the scheduler, and not every scheduler takes one.
`tests/oracle/test_slots.py` holds this table to the installed diffusers.
"""

from collections.abc import Mapping
from types import MappingProxyType

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
