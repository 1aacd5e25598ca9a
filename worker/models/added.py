"""ControlNets and IP-Adapters: loaded beside a model, for the group that asks for them."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.added import find_added
from imagemill.db.models.registry import Registry
from imagemill.worker.models.model import Model
from imagemill.worker.models.pipelines import Pipeline


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


def wear_ip_adapter(model: Model, group: Mapping[str, Any], registry: Registry) -> None:
    """Add a group's IP-Adapter to the model at its scale, or take the last one away.

    Without one the model's modules are as they were loaded, bit for bit. Raises `ModelError` if it
    can't be loaded or does not fit.
    """
    named = group.get("ip_adapter")
    wanted = None if named is None else (named["digest"], float(named["scale"]))
    worn = model.active_ip_adapter
    pipeline: Pipeline = model.pipeline
    if worn == wanted:
        return
    if wanted is not None and model.tuning.fused:
        # Taking it away would leave other attention behind than that of fused projections.
        raise ModelError(
            "an IP-Adapter does not fit fused projections: unset IMAGEMILL_FUSE_PROJECTIONS"
        )
    with torch.inference_mode(mode=False), torch.no_grad():
        if worn is not None and (wanted is None or worn[0] != wanted[0]):
            pipeline.unload_ip_adapter()
            worn = model.active_ip_adapter = None
        if named is None or wanted is None:
            return
        if worn is None:
            _load_ip_adapter(model, named, registry)
        pipeline.set_ip_adapter_scale(wanted[1])
        model.active_ip_adapter = wanted


def _load_controlnet(model: Model, named: Mapping[str, Any], registry: Registry) -> Any:
    entry = find_added(registry.controlnets, named)
    # The class is one that the model's pipelines take, whatever the file's own words are.
    wanted = model.facts.ways.controlnet
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
    if not model.facts.ways.ip_adapter:
        raise ModelError(f"model {model.name}: diffusers has no IP-Adapter for its pipeline")
    encoder = entry.image_encoder
    pipeline: Pipeline = model.pipeline
    try:
        pipeline.load_ip_adapter(
            str(entry.root),
            subfolder=entry.subfolder,
            weight_name=entry.weights,
            # A name without a slash would be looked for beside the weights.
            image_encoder_folder=encoder if encoder is None or "/" in encoder else f"./{encoder}",
            local_files_only=True,
        )
    except Exception as error:  # diffusers raises many kinds of error for a misfit
        pipeline.unload_ip_adapter()
        raise ModelError(f"IP-Adapter {entry.name}: {first_line(error)}") from error
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(model.device).eval().requires_grad_(False)
    pipeline.unet.to(dtype=model.dtype)
