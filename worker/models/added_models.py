"""ControlNets and IP-Adapters: loaded beside a model, for the group that asks for them."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import SD3IPAdapterMixin
from safetensors import SafetensorError

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.added_models import find_added
from imagemill.db.models.registry import Registry
from imagemill.worker.models.model import Model
from imagemill.worker.models.pipelines import Pipeline
from imagemill.worker.models.tuning import set_attention


def controlnet_of(model: Model, group: Mapping[str, Any], registry: Registry) -> Any:
    """The ControlNet of a group (`ImageSpec.group()`) on the model's device; None without one.

    The model keeps it for the next engine, until a group asks for another or for none. Raises
    `ModelError` if it can't be loaded.
    """
    named = group.get("controlnet")
    if named is None:
        model.controlnet = None
        return None
    if model.controlnet is None or model.controlnet[0] != named["digest"]:
        model.controlnet = None  # the old one goes first: both together may not fit
        model.controlnet = named["digest"], _load_controlnet(model, named, registry)
    return model.controlnet[1]


def activate_ip_adapter(model: Model, group: Mapping[str, Any], registry: Registry) -> None:
    """Add a group's IP-Adapter to the model at its scale, or take the last one away.

    Without one the model's modules are as they were loaded, bit for bit. Raises `ModelError` if it
    can't be loaded or does not fit.
    """
    named = group.get("ip_adapter")
    wanted = None if named is None else (named["digest"], float(named["scale"]))
    active = model.active_ip_adapter
    pipeline: Pipeline = model.pipeline
    if active == wanted:
        return
    if wanted is not None and model.tuning.fused:
        # Taking it away would leave other attention behind than that of fused projections.
        raise ModelError(
            "an IP-Adapter does not fit fused projections: unset IMAGEMILL_FUSE_PROJECTIONS"
        )
    with torch.inference_mode(mode=False), torch.no_grad():
        if active is not None and (wanted is None or active[0] != wanted[0]):
            _remove_ip_adapter(model)
            active = model.active_ip_adapter = None
        if named is None or wanted is None:
            return
        if active is None:
            _load_ip_adapter(model, named, registry)
        pipeline.set_ip_adapter_scale(wanted[1])
        model.active_ip_adapter = wanted


def _load_controlnet(model: Model, named: Mapping[str, Any], registry: Registry) -> Any:
    entry = find_added(registry.controlnets, named)
    # The class is one that the model's pipelines take, whatever the file's own words are.
    wanted = model.facts.inputs.controlnet
    if not wanted or entry.class_name != wanted:
        said = entry.class_name or "no class"
        raise ModelError(f"ControlNet {entry.name}: {said}, where {model.name} takes {wanted}")
    try:
        found = getattr(diffusers, wanted).from_pretrained(
            entry.root / entry.subfolder,
            dtype=model.dtype,
            variant=entry.variant,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"ControlNet {entry.name}: {first_line(error)}") from error
    return found.to(model.device).eval().requires_grad_(False)


def _load_ip_adapter(model: Model, named: Mapping[str, Any], registry: Registry) -> None:
    entry = find_added(registry.ip_adapters, named)
    if not model.facts.inputs.ip_adapter:
        raise ModelError(f"model {model.name}: diffusers has no IP-Adapter for its pipeline")
    pipeline: Pipeline = model.pipeline
    try:
        if entry.encoder_folder is not None:
            _load_encoder(pipeline, entry.encoder_folder, model.dtype)
        accepted = inspect.signature(pipeline.load_ip_adapter).parameters
        pipeline.load_ip_adapter(
            str(entry.root),
            subfolder=entry.subfolder,
            weight_name=entry.weights,
            local_files_only=True,
            **dict.fromkeys(_ENCODER_ARGUMENTS & accepted.keys()),
        )
        set_attention(_denoiser(pipeline), model.tuning)
    except Exception as error:  # diffusers raises many kinds of error for a misfit
        _remove_ip_adapter(model)
        raise ModelError(f"IP-Adapter {entry.name}: {first_line(error)}") from error
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(model.device).eval().requires_grad_(False)
    for module in _added_modules(pipeline):
        module.to(device=model.device, dtype=model.dtype).eval().requires_grad_(False)


_ENCODER_ARGUMENTS = frozenset(
    {"image_encoder_folder", "image_encoder_pretrained_model_name_or_path"}
)
"""What `load_ip_adapter` calls the place of an image encoder. It loads none if one is there."""


def _load_encoder(pipeline: Pipeline, folder: Path, dtype: torch.dtype) -> None:
    """Put the encoder that reads an IP-Adapter's pictures into the pipeline, and what feeds it."""
    of_sd3 = isinstance(pipeline, SD3IPAdapterMixin)
    kind = transformers.SiglipVisionModel if of_sd3 else transformers.CLIPVisionModelWithProjection
    encoder: Any = kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    pipeline.register_modules(image_encoder=encoder)
    if of_sd3:  # for the others, diffusers makes it
        side = encoder.config.image_size
        feeder = transformers.SiglipImageProcessor(size={"height": side, "width": side})
        pipeline.register_modules(feature_extractor=feeder)


def _remove_ip_adapter(model: Model) -> None:
    """Remove the IP-Adapter. What attention it leaves behind is new."""
    pipeline: Pipeline = model.pipeline
    pipeline.unload_ip_adapter()
    if "feature_extractor" in pipeline.components:
        # It has the size of this one's pictures, and diffusers would keep it for the next.
        pipeline.register_modules(feature_extractor=None)
    set_attention(_denoiser(pipeline), model.tuning)


def _denoiser(pipeline: Pipeline) -> Any:
    return pipeline.unet if "unet" in pipeline.components else pipeline.transformer


def _added_modules(pipeline: Pipeline) -> list[torch.nn.Module]:
    """The modules that an IP-Adapter has put into the denoiser."""
    denoiser = _denoiser(pipeline)
    names = ("encoder_hid_proj", "image_proj")
    found = [getattr(denoiser, name, None) for name in names] + [*denoiser.attn_processors.values()]
    return [each for each in found if isinstance(each, torch.nn.Module)]
