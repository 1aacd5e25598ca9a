"""Every way of working beside text-to-image, family by family, as diffusers is called by hand.

The models are small, with random weights. Which class of pipelines a way takes, and what its
arguments are called, is written down here once more, so that a wrong row of
`db.models.pipeline_inputs` or a wrong guess of the slot engine is a difference.
"""

import inspect
import io
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.loaders import FluxIPAdapterMixin, SD3IPAdapterMixin
from PIL import Image

from imagemill.db.models.registry import Registry
from imagemill.db.specs import AddedModel, ImageSpec
from tools.parity.guided_steps import guided_steps
from tools.parity.oracle import Pixels
from tools.parity.pipeline_oracle import EXTRAS, NO_NEGATIVES, repeated
from tools.small_models import editing, families
from tools.small_models.added import save_controlnet, save_ip_adapter
from tools.small_models.guided import save_sdxl, stable_diffusion

FROM_PICTURE, IN_MASK = "image to image", "inpainting"
CONTROL = "ControlNet"
CONTROL_FROM_PICTURE, CONTROL_IN_MASK = "ControlNet, image to image", "ControlNet, inpainting"
REFERENCE, EDIT, INTERVAL = "IP-Adapter", "editing", "guidance interval"
WAYS = (
    *(FROM_PICTURE, IN_MASK, CONTROL, CONTROL_FROM_PICTURE, CONTROL_IN_MASK),
    *(REFERENCE, EDIT, INTERVAL),
)

_CONTROLLED = (CONTROL, CONTROL_FROM_PICTURE, CONTROL_IN_MASK)

_QWEN_EDIT = {
    "qwen_image_edit": {EDIT: "QwenImageEditPipeline"},
    "qwen_image_edit_plus": {EDIT: "QwenImageEditPlusPipeline"},
}

_SD = {
    FROM_PICTURE: "StableDiffusionImg2ImgPipeline",
    IN_MASK: "StableDiffusionInpaintPipeline",
    CONTROL: "StableDiffusionControlNetPipeline",
    CONTROL_FROM_PICTURE: "StableDiffusionControlNetImg2ImgPipeline",
    CONTROL_IN_MASK: "StableDiffusionControlNetInpaintPipeline",
    REFERENCE: "StableDiffusionPipeline",
    INTERVAL: "StableDiffusionPipeline",
}
_SD3 = {
    FROM_PICTURE: "StableDiffusion3Img2ImgPipeline",
    CONTROL: "StableDiffusion3ControlNetPipeline",
    REFERENCE: "StableDiffusion3Pipeline",
    INTERVAL: "StableDiffusion3Pipeline",
}
_FLUX = {
    FROM_PICTURE: "FluxImg2ImgPipeline",
    IN_MASK: "FluxInpaintPipeline",
    CONTROL: "FluxControlNetPipeline",
    CONTROL_FROM_PICTURE: "FluxControlNetImg2ImgPipeline",
    CONTROL_IN_MASK: "FluxControlNetInpaintPipeline",
    REFERENCE: "FluxPipeline",
}

PIPELINES: Mapping[str, Mapping[str, str]] = {
    "aura_flow": {INTERVAL: "AuraFlowPipeline"},
    "chroma": {
        FROM_PICTURE: "ChromaImg2ImgPipeline",
        IN_MASK: "ChromaInpaintPipeline",
        REFERENCE: "ChromaPipeline",
        INTERVAL: "ChromaPipeline",
    },
    "cogview_4": {INTERVAL: "CogView4Pipeline"},
    "flux_2_klein": {EDIT: "Flux2KleinPipeline"},
    "flux_dev": _FLUX,
    "flux_kontext": {EDIT: "FluxKontextPipeline"},
    "flux_schnell": {**_FLUX, INTERVAL: "FluxPipeline"},
    "hunyuan_dit": {CONTROL: "HunyuanDiTControlNetPipeline", INTERVAL: "HunyuanDiTPipeline"},
    "latent_consistency": {
        FROM_PICTURE: "LatentConsistencyModelImg2ImgPipeline",
        REFERENCE: "LatentConsistencyModelPipeline",
    },
    "lumina_2": {INTERVAL: "Lumina2Pipeline"},
    "pixart_sigma": {INTERVAL: "PixArtSigmaPipeline"},
    "qwen_image": {
        FROM_PICTURE: "QwenImageImg2ImgPipeline",
        IN_MASK: "QwenImageInpaintPipeline",
        CONTROL: "QwenImageControlNetPipeline",
        INTERVAL: "QwenImagePipeline",
    },
    **_QWEN_EDIT,
    "sana": {CONTROL: "SanaControlNetPipeline", INTERVAL: "SanaPipeline"},
    "stable_diffusion": _SD,
    "stable_diffusion_3": _SD3,
    # Inpainting wants the 16 channels that real models have.
    "stable_diffusion_3_5": {**_SD3, IN_MASK: "StableDiffusion3InpaintPipeline"},
    "stable_diffusion_xl": {
        way: name.replace("Diffusion", "DiffusionXL") for way, name in _SD.items()
    },
    "z_image": {
        FROM_PICTURE: "ZImageImg2ImgPipeline",
        IN_MASK: "ZImageInpaintPipeline",
        INTERVAL: "ZImagePipeline",
    },
}
"""Model → way → the class of diffusers' pipelines that has it."""

CASES = tuple((name, way) for name, ways in PIPELINES.items() for way in ways)

_CONTROL_IS_IMAGE = {_SD[CONTROL], "StableDiffusionXLControlNetPipeline"}
"""Pipelines whose `image` is the control picture."""

_TRUE_SCALE = frozenset({"flux_schnell", "qwen_image", *_QWEN_EDIT})
_NO_TRUE_SCALE = frozenset({_FLUX[CONTROL_FROM_PICTURE], _FLUX[CONTROL_IN_MASK]})
"""Of Flux's pipelines, those that have no other guidance than the distilled one."""

STRENGTHS = {FROM_PICTURE: 0.6, CONTROL_FROM_PICTURE: 0.6, IN_MASK: 0.8, CONTROL_IN_MASK: 0.8}
CONTROL_SCALE, REFERENCE_SCALE = 0.7, 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """The input files of every case: a picture and a mask, each with its digest."""

    picture: tuple[str, bytes]
    mask: tuple[str, bytes]


def fields(way: str, name: str, scenes: Scenes, registry: Registry) -> dict[str, Any]:
    """The fields of a specification for a way, with the model's ControlNet or IP-Adapter."""
    found: dict[str, Any] = {}
    if way in STRENGTHS:
        found |= {"init_image": scenes.picture[0], "strength": STRENGTHS[way]}
    if way in (IN_MASK, CONTROL_IN_MASK):
        found["mask"] = scenes.mask[0]
    if way in _CONTROLLED:
        digest = registry.find_controlnet(name).digest
        found |= {"control_image": scenes.picture[0], "control_scale": CONTROL_SCALE}
        found["controlnet"] = AddedModel(name=name, digest=digest)
    if way in (REFERENCE, EDIT):
        found["reference_image"] = scenes.picture[0]
    if way == REFERENCE:
        digest = registry.find_ip_adapter(name).digest
        found["reference_scale"] = REFERENCE_SCALE
        found["ip_adapter"] = AddedModel(name=name, digest=digest)
    if way == INTERVAL:
        found |= {"guidance_start": 0.25, "guidance_end": 0.75}
    return found


def guidance_scale(name: str, way: str) -> float:
    """A scale that the pipeline heeds: 1, which is none, where it has no guidance."""
    unguided = name in _TRUE_SCALE and PIPELINES[name][way] in _NO_TRUE_SCALE
    return 1.0 if unguided else 3.5


def save_model(name: str, folder: Path) -> None:
    """Save a model, with the ControlNet and the IP-Adapter that its ways take, in `folder`.

    What is there already stays: the model may have been saved for another table.
    """
    if name in _QWEN_EDIT:
        editing.prepare()
    if not (folder / name).exists():
        if name == "stable_diffusion_xl":
            save_sdxl(folder / name)
        else:
            _built(name).save_pretrained(folder / name)
    parts = {CONTROL: (save_controlnet, "control"), REFERENCE: (save_ip_adapter, "ip")}
    for way, (save, ending) in parts.items():
        place = folder / f"{name}_{ending}"
        if way in PIPELINES.get(name, {}) and not place.exists():
            save(diffusers.DiffusionPipeline.from_pretrained(folder / name), place)


def registry_tables(name: str) -> str:
    """A model's registry entry and those of what its ways take; all have its name."""
    ways = PIPELINES.get(name, {})
    lines = [f"[models.{name}]", f'source = "{name}"', 'kind = "generic"']
    if REFERENCE in ways:
        lines += [f'ip_adapter = "{name}"', f"[ip_adapters.{name}]", f'source = "{name}_ip"']
        lines += ['weights = "ip-adapter.safetensors"', 'image_encoder = "image_encoder"']
    if CONTROL in ways:
        lines += [f"[controlnets.{name}]", f'source = "{name}_control"']
    return "\n".join(lines) + "\n"


def _built(name: str) -> Any:
    if name == "stable_diffusion":
        return stable_diffusion()
    if name in _QWEN_EDIT:
        return editing.qwen_image_edit(_QWEN_EDIT[name][EDIT])
    if name == "flux_kontext":
        return diffusers.FluxKontextPipeline(**families.build("flux_dev").components)
    return families.build(name)


class WayOracle:
    """Draws a row as a user of diffusers does, with the pipeline class of its way."""

    def __init__(self, name: str, way: str, folder: Path, scenes: Scenes) -> None:
        self._name, self._way, self._folder = name, way, folder
        self._pictures = {
            "picture": Image.open(io.BytesIO(scenes.picture[1])),
            "mask": Image.open(io.BytesIO(scenes.mask[1])),
        }
        self._pipeline = self._loaded(folder)
        if way == REFERENCE:
            self.take_ip_adapter()

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row as a user gets it: one prompt, one generator, one image."""
        return self.same_shape(spec, slots=1)

    def same_shape(self, spec: ImageSpec, *, slots: int) -> Pixels:
        """The row alone, but each denoiser call has its rows `slots` times, as in the engine."""
        arguments = self._arguments(spec)
        # SD 3's and HunyuanDiT's ControlNet pipelines draw from the global generator as well.
        torch.manual_seed(spec.seed)
        with repeated(self._pipeline, self._name, slots), torch.no_grad():
            if self._way != INTERVAL:
                return np.asarray(self._pipeline(**arguments).images[0])
            with guided_steps(self._pipeline, self._name, spec):
                return np.asarray(self._pipeline(**arguments).images[0])

    def take_sampler(self, kind: Any) -> None:
        """Draw with a scheduler class of another kind, for flow sigmas.

        Pipelines noise a picture by `scale_noise`, which these classes lack: here it is.
        """
        shift = self._pipeline.scheduler.config.shift
        scheduler = kind.from_config(
            self._pipeline.scheduler.config,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
            flow_shift=shift,
        )

        def scale_noise(sample: Any, timestep: Any, noise: Any) -> Any:
            place = (scheduler.timesteps == timestep).nonzero()[0]
            sigma = scheduler.sigmas[place]
            return (1 - sigma) * sample + sigma * noise

        scheduler.scale_noise = scale_noise
        self._pipeline.scheduler = scheduler

    def take_ip_adapter(self) -> None:
        """Draw with the model's IP-Adapter, in whatever way this is."""
        pipeline, folder = self._pipeline, self._folder / f"{self._name}_ip"
        encoder: dict[str, Any] = {}
        if isinstance(pipeline, FluxIPAdapterMixin):
            encoder["image_encoder_pretrained_model_name_or_path"] = folder / "image_encoder"
            encoder["image_encoder_dtype"] = torch.float32
        elif isinstance(pipeline, SD3IPAdapterMixin):
            encoder["image_encoder_folder"] = str(folder / "image_encoder")
        pipeline.load_ip_adapter(
            str(folder), subfolder="", weight_name="ip-adapter.safetensors", **encoder
        )
        pipeline.set_ip_adapter_scale(REFERENCE_SCALE)
        _evaluate(pipeline)

    def _loaded(self, folder: Path) -> Any:
        name = self._name
        parts = _copied(_components(folder / name))
        if self._way in _CONTROLLED:
            place = folder / f"{name}_control"
            kind = diffusers.ControlNetModel.load_config(place)["_class_name"]
            parts["controlnet"] = getattr(diffusers, kind).from_pretrained(place)
        kind = getattr(diffusers, PIPELINES[name][self._way])
        accepted = inspect.signature(kind.__init__).parameters
        parts = {part: each for part, each in parts.items() if part in accepted}
        if "requires_safety_checker" in accepted:
            parts["requires_safety_checker"] = False
        if "add_watermarker" in accepted:
            parts["add_watermarker"] = False
        pipeline = kind(**parts)
        pipeline.set_progress_bar_config(disable=True)
        _evaluate(pipeline)
        return pipeline

    def _arguments(self, spec: ImageSpec) -> dict[str, Any]:
        kind, scene = type(self._pipeline).__name__, self._pictures["picture"]
        found: dict[str, Any] = {
            "prompt": spec.prompt,
            "num_inference_steps": spec.steps,
            "generator": torch.Generator().manual_seed(spec.seed),
            "width": spec.width,
            "height": spec.height,
            **EXTRAS.get(self._name, {}),
        }
        true_scale = self._name in _TRUE_SCALE and kind not in _NO_TRUE_SCALE
        found["true_cfg_scale" if true_scale else "guidance_scale"] = spec.guidance_scale
        if self._name not in NO_NEGATIVES and kind not in _NO_TRUE_SCALE:
            found["negative_prompt"] = spec.negative_prompt
        if self._way in STRENGTHS:
            found |= {"image": scene, "strength": STRENGTHS[self._way]}
        if spec.mask is not None:
            found["mask_image"] = self._pictures["mask"]
        if spec.control_image is not None:
            found["image" if kind in _CONTROL_IS_IMAGE else "control_image"] = scene
            found["controlnet_conditioning_scale"] = CONTROL_SCALE
        if spec.ip_adapter is not None:
            found["ip_adapter_image"] = scene
        if self._way == EDIT:
            found["image"] = scene
        if kind == "FluxKontextPipeline":
            found["max_area"] = spec.width * spec.height
        taken = inspect.signature(type(self._pipeline).__call__).parameters
        # Some image-to-image pipelines take their size from the picture.
        return {name: each for name, each in found.items() if name in taken}


@lru_cache(maxsize=1)
def _components(folder: Path) -> Mapping[str, Any]:
    """A saved model's parts, read once for all its ways, whose cases follow one another."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    return dict(pipeline.components)


def _copied(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The same parts with modules of their own: an IP-Adapter changes the denoiser."""
    return {
        name: deepcopy(each) if isinstance(each, torch.nn.Module) else each
        for name, each in parts.items()
    }


def _evaluate(pipeline: Any) -> None:
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
