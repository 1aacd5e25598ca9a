"""What diffusers' pipelines take beside a prompt, known without torch: a row for each class.

`tests/oracle/test_pipeline_inputs.py` holds this table to the installed diffusers: the classes are
those of its `AUTO_…_PIPELINES_MAPPING` that take a `strength`, and those that it has beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineInputs:
    """The classes that a text-to-image pipeline's modules are put into, and what they read.

    - `from_picture`, `in_mask`: for an init image; for an init image and a mask.
    - `controlnet`: the class of the ControlNets that suit it.
    - `controlled`, `controlled_from_picture`, `controlled_in_mask`: the same with a ControlNet.
    - `own_control`: it reads a control image itself, and always.
    - `ip_adapter`: whether an IP-Adapter can be added to it, and `without_ip_adapter` those of its
      classes that take none.
    - `reference`: whether it may, or must, have a picture that it edits.
    - `clip_prompts`: whether its prompts are read by CLIP alone and its calls take embeddings, so
      that they can have weights and more than one window.

    A class that diffusers does not have is empty.
    """

    from_picture: str = ""
    in_mask: str = ""
    controlnet: str = ""
    controlled: str = ""
    controlled_from_picture: str = ""
    controlled_in_mask: str = ""
    own_control: bool = False
    ip_adapter: bool = False
    without_ip_adapter: frozenset[str] = frozenset()
    reference: Literal["no", "may", "must"] = "no"
    clip_prompts: bool = False

    def class_for(self, *, picture: bool, mask: bool, controlled: bool) -> str:
        """The class for an init image, a mask and a ControlNet; empty for none of them."""
        if mask:
            return self.controlled_in_mask if controlled else self.in_mask
        if picture:
            return self.controlled_from_picture if controlled else self.from_picture
        return self.controlled if controlled else ""


PROMPT_ONLY = PipelineInputs()
"""Of a pipeline that takes a prompt and no picture."""

PIPELINE_INPUTS: Mapping[str, PipelineInputs] = MappingProxyType(
    {
        "StableDiffusionPipeline": PipelineInputs(
            from_picture="StableDiffusionImg2ImgPipeline",
            in_mask="StableDiffusionInpaintPipeline",
            controlnet="ControlNetModel",
            controlled="StableDiffusionControlNetPipeline",
            controlled_from_picture="StableDiffusionControlNetImg2ImgPipeline",
            controlled_in_mask="StableDiffusionControlNetInpaintPipeline",
            ip_adapter=True,
            clip_prompts=True,
        ),
        "StableDiffusionXLPipeline": PipelineInputs(
            from_picture="StableDiffusionXLImg2ImgPipeline",
            in_mask="StableDiffusionXLInpaintPipeline",
            controlnet="ControlNetModel",
            controlled="StableDiffusionXLControlNetPipeline",
            controlled_from_picture="StableDiffusionXLControlNetImg2ImgPipeline",
            controlled_in_mask="StableDiffusionXLControlNetInpaintPipeline",
            ip_adapter=True,
            clip_prompts=True,
        ),
        "LatentConsistencyModelPipeline": PipelineInputs(
            from_picture="LatentConsistencyModelImg2ImgPipeline",
            ip_adapter=True,
            clip_prompts=True,
        ),
        "KolorsPipeline": PipelineInputs(from_picture="KolorsImg2ImgPipeline"),
        "StableDiffusion3Pipeline": PipelineInputs(
            from_picture="StableDiffusion3Img2ImgPipeline",
            in_mask="StableDiffusion3InpaintPipeline",
            controlnet="SD3ControlNetModel",
            controlled="StableDiffusion3ControlNetPipeline",
            ip_adapter=True,
        ),
        "FluxPipeline": PipelineInputs(
            from_picture="FluxImg2ImgPipeline",
            in_mask="FluxInpaintPipeline",
            controlnet="FluxControlNetModel",
            controlled="FluxControlNetPipeline",
            controlled_from_picture="FluxControlNetImg2ImgPipeline",
            controlled_in_mask="FluxControlNetInpaintPipeline",
            ip_adapter=True,
            without_ip_adapter=frozenset(
                {"FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline"}
            ),
        ),
        "FluxControlPipeline": PipelineInputs(
            from_picture="FluxControlImg2ImgPipeline",
            in_mask="FluxControlInpaintPipeline",
            own_control=True,
        ),
        "FluxKontextPipeline": PipelineInputs(reference="may"),
        "Flux2Pipeline": PipelineInputs(reference="may"),
        "Flux2KleinPipeline": PipelineInputs(reference="may"),
        "ChromaPipeline": PipelineInputs(
            from_picture="ChromaImg2ImgPipeline", in_mask="ChromaInpaintPipeline", ip_adapter=True
        ),
        "QwenImagePipeline": PipelineInputs(
            from_picture="QwenImageImg2ImgPipeline",
            in_mask="QwenImageInpaintPipeline",
            controlnet="QwenImageControlNetModel",
            controlled="QwenImageControlNetPipeline",
        ),
        "QwenImageEditPipeline": PipelineInputs(reference="must"),
        "QwenImageEditPlusPipeline": PipelineInputs(reference="must"),
        "ZImagePipeline": PipelineInputs(
            from_picture="ZImageImg2ImgPipeline", in_mask="ZImageInpaintPipeline"
        ),
        "CogView4ControlPipeline": PipelineInputs(own_control=True),
        "HunyuanDiTPipeline": PipelineInputs(
            controlnet="HunyuanDiT2DControlNetModel", controlled="HunyuanDiTControlNetPipeline"
        ),
        "SanaPipeline": PipelineInputs(
            controlnet="SanaControlNetModel", controlled="SanaControlNetPipeline"
        ),
        "Kandinsky3Pipeline": PipelineInputs(from_picture="Kandinsky3Img2ImgPipeline"),
    }
)
"""By the class in a model's `model_index.json`; what is not here has `PROMPT_ONLY`."""

_CHANGE_THE_DENOISER = ("PAG", "SAG", "AttendAndExcite", "LEdits", "Pix2PixZero")
"""Parts of the names of pipelines that put other attention into the denoiser during a call."""


def changes_the_denoiser(pipeline_class: str) -> bool:
    """Whether a pipeline's calls change the denoiser's modules while they run.

    Such calls can't run in slots, because all slots share one denoiser: the first call to end would
    take the change away from the others. Their attention also counts on rows of one image alone.
    """
    return any(part in pipeline_class for part in _CHANGE_THE_DENOISER)
