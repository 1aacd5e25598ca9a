"""Which of a row's columns the calls of diffusers' pipelines have an argument for, without torch.

`tests/oracle/test_pipeline_inputs.py` holds this table to the installed diffusers.
"""

from collections.abc import Mapping
from types import MappingProxyType

ARGUMENTS = ("clip_skip", "eta", "guidance_rescale", "negative_prompt")
"""The columns that a pipeline may have no argument for."""

_NONE: frozenset[str] = frozenset()
_NEGATIVE = frozenset({"negative_prompt"})
_CLIP_SKIP = frozenset({"clip_skip"})
_ETA = frozenset({"eta", "negative_prompt"})
_SKIPPED = frozenset({"clip_skip", "negative_prompt"})
_MOST = frozenset({"clip_skip", "eta", "negative_prompt"})
_RESCALED = frozenset({"eta", "guidance_rescale", "negative_prompt"})

_CALLS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "AuraFlowPipeline": _NEGATIVE,
        "ChromaImg2ImgPipeline": _NEGATIVE,
        "ChromaInpaintPipeline": _NEGATIVE,
        "ChromaPipeline": _NEGATIVE,
        "CogView4ControlPipeline": _NEGATIVE,
        "CogView4Pipeline": _NEGATIVE,
        "Flux2KleinPipeline": _NONE,
        "Flux2Pipeline": _NONE,
        "FluxControlImg2ImgPipeline": _NONE,
        "FluxControlInpaintPipeline": _NONE,
        "FluxControlNetImg2ImgPipeline": _NONE,
        "FluxControlNetInpaintPipeline": _NONE,
        "FluxControlNetPipeline": _NEGATIVE,
        "FluxControlPipeline": _NONE,
        "FluxImg2ImgPipeline": _NEGATIVE,
        "FluxInpaintPipeline": _NEGATIVE,
        "FluxKontextPipeline": _NEGATIVE,
        "FluxPipeline": _NEGATIVE,
        "HiDreamImagePipeline": _NEGATIVE,
        "HunyuanDiTControlNetPipeline": _RESCALED,
        "HunyuanDiTPipeline": _RESCALED,
        "HunyuanImagePipeline": _NEGATIVE,
        "Kandinsky3Img2ImgPipeline": _NEGATIVE,
        "Kandinsky3Pipeline": _NEGATIVE,
        "LatentConsistencyModelImg2ImgPipeline": _CLIP_SKIP,
        "LatentConsistencyModelPipeline": _CLIP_SKIP,
        "Lumina2Pipeline": _NEGATIVE,
        "OmniGenPipeline": _NONE,
        "PixArtAlphaPipeline": _ETA,
        "PixArtSigmaPipeline": _ETA,
        "QwenImageControlNetPipeline": _NEGATIVE,
        "QwenImageEditPipeline": _NEGATIVE,
        "QwenImageEditPlusPipeline": _NEGATIVE,
        "QwenImageImg2ImgPipeline": _NEGATIVE,
        "QwenImageInpaintPipeline": _NEGATIVE,
        "QwenImagePipeline": _NEGATIVE,
        "SanaControlNetPipeline": _ETA,
        "SanaPipeline": _ETA,
        "SanaSprintPipeline": frozenset({"eta"}),
        "StableDiffusion3ControlNetPipeline": _SKIPPED,
        "StableDiffusion3Img2ImgPipeline": _SKIPPED,
        "StableDiffusion3InpaintPipeline": _SKIPPED,
        "StableDiffusion3Pipeline": _SKIPPED,
        "StableDiffusionControlNetImg2ImgPipeline": _MOST,
        "StableDiffusionControlNetInpaintPipeline": _MOST,
        "StableDiffusionControlNetPipeline": _MOST,
        "StableDiffusionImg2ImgPipeline": _MOST,
        "StableDiffusionInpaintPipeline": _MOST,
        "StableDiffusionPipeline": _MOST | _RESCALED,
        "StableDiffusionXLControlNetImg2ImgPipeline": _MOST,
        "StableDiffusionXLControlNetInpaintPipeline": _MOST | _RESCALED,
        "StableDiffusionXLControlNetPipeline": _MOST,
        "StableDiffusionXLImg2ImgPipeline": _MOST | _RESCALED,
        "StableDiffusionXLInpaintPipeline": _MOST | _RESCALED,
        "StableDiffusionXLPipeline": _MOST | _RESCALED,
        "ZImageImg2ImgPipeline": _NEGATIVE,
        "ZImageInpaintPipeline": _NEGATIVE,
        "ZImagePipeline": _NEGATIVE,
    }
)


def arguments_of(pipeline_class: str) -> frozenset[str] | None:
    """Those of `ARGUMENTS` that a class of pipelines takes; None if the class is not known here."""
    return _CALLS.get(pipeline_class)
