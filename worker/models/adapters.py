"""LoRA adapters and textual-inversion embeddings: safetensors files added to a loaded model.

Adapters belong to a group: while an engine of that group works, exactly these adapters are active.
Embeddings belong to the model's registry entry and are loaded with the model.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.registry import Registry
from imagemill.worker.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAdapter:
    """A LoRA file on this machine, its SHA-256, and how strongly it is applied."""

    digest: str
    weight: float
    file: Path


def find_adapters(
    group: Sequence[Mapping[str, Any]], registry: Registry
) -> tuple[GroupAdapter, ...]:
    """The files of a group's adapters (`ImageSpec.group()["adapters"]`), in the same order.

    An adapter is looked up by name first. If that file has another digest, any registered file
    with the digest is taken. Raises `ModelError` if there is none.
    """
    return tuple(
        GroupAdapter(
            digest=adapter["digest"],
            weight=float(adapter["weight"]),
            file=_file_with(adapter["name"], adapter["digest"], registry),
        )
        for adapter in group
    )


def activate_adapters(model: Model, adapters: tuple[GroupAdapter, ...]) -> None:
    """Make exactly these adapters active; do nothing if they are already.

    Without adapters the model's modules are again as they were loaded, bit for bit. Raises
    `ModelError` if a file does not fit the model.
    """
    wanted = tuple((adapter.digest, adapter.weight) for adapter in adapters)
    if model.active_adapters == wanted:
        return
    if adapters and find_spec("peft") is None:
        raise ModelError("adapters need peft: pip install 'imagemill[lora]'")
    if adapters and not hasattr(_pipeline_class(model), "load_lora_weights"):
        name = _pipeline_class(model).__name__
        raise ModelError(f"model {model.name}: diffusers loads no LoRA for {name}")
    if adapters and model.tuning.fused:
        raise ModelError("adapters do not fit fused projections: unset IMAGEMILL_FUSE_PROJECTIONS")
    pipeline = _pipeline(model)
    # Weights that were created in inference mode can't be removed again, so it is off here.
    with torch.inference_mode(mode=False), torch.no_grad():
        if model.active_adapters:
            _remove_adapters(pipeline)
            model.active_adapters = ()
        if not adapters:
            return
        names = [f"lora_{number}" for number in range(len(adapters))]
        try:
            for name, adapter in zip(names, adapters, strict=True):
                pipeline.load_lora_weights(
                    str(adapter.file.parent),
                    weight_name=adapter.file.name,
                    adapter_name=name,
                    local_files_only=True,
                    use_safetensors=True,
                )
            pipeline.set_adapters(names, [adapter.weight for adapter in adapters])
        except Exception as error:  # diffusers and peft raise many kinds of error for a misfit
            _remove_adapters(pipeline)
            files = ", ".join(adapter.file.name for adapter in adapters)
            raise ModelError(f"adapters {files} do not fit model {model.name}: {error}") from error
        for module in model.components.values():
            if isinstance(module, torch.nn.Module):
                module.to(model.device).eval().requires_grad_(False)
    model.active_adapters = wanted


def _remove_adapters(pipeline: Any) -> None:
    """Remove every adapter. Flux's control LoRAs have made an input layer wider; it is put back."""
    accepted = inspect.signature(pipeline.unload_lora_weights).parameters
    widened = "reset_to_overwritten_params"
    pipeline.unload_lora_weights(**({widened: True} if widened in accepted else {}))


def add_embeddings(model: Model, embeddings: Mapping[str, Path]) -> None:
    """Add the tokens of embedding files to the model's tokenizers and text encoders.

    A token with several vectors takes as many places in the prompt's window. A model with two text
    encoders (SDXL) needs files with vectors for both, under the keys `clip_l` and `clip_g`. Raises
    `ModelError` if a file can't be used.
    """
    if not embeddings:
        return
    if not hasattr(_pipeline_class(model), "load_textual_inversion"):
        name = _pipeline_class(model).__name__
        raise ModelError(f"model {model.name}: diffusers loads no embeddings for {name}")
    pipeline = _pipeline(model)
    for token, file in embeddings.items():
        if file.suffix != ".safetensors":
            raise ModelError(
                f"model {model.name}: {file.name} is not safetensors, and a pickle can run code; "
                f"convert it once where you trust its source: {_convert(file)}"
            )
        try:
            for key, number in _vectors(model):
                vectors = load_file(file)
                pipeline.load_textual_inversion(
                    vectors if key is None else vectors[key],
                    token=token,
                    tokenizer=model.components[f"tokenizer{number}"],
                    text_encoder=model.components[f"text_encoder{number}"],
                    use_safetensors=True,
                    local_files_only=True,
                )
        except KeyError:
            raise ModelError(
                f"model {model.name}: embedding {file.name} is not for a model of two text "
                "encoders: it has no clip_l and clip_g"
            ) from None
        except (ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise ModelError(
                f"model {model.name}: embedding {file.name}: {first_line(error)}"
            ) from error


def convert_prompt(tokenizer: Any, text: str) -> str:
    """The text, with each embedding's token written once for each of its vectors."""
    convert = diffusers.loaders.TextualInversionLoaderMixin().maybe_convert_prompt
    return str(convert(text, tokenizer))


def _vectors(model: Model) -> Sequence[tuple[str | None, str]]:
    """For each text encoder: the key of its vectors in an embedding's file, and its suffix.

    Of the text encoders only CLIP's learn tokens. A file for one encoder has one key of any name,
    hence None.
    """
    if isinstance(model.components.get("text_encoder_2"), transformers.CLIPTextModelWithProjection):
        return (("clip_l", ""), ("clip_g", "_2"))
    return ((None, ""),)


def _pipeline_class(model: Model) -> Any:
    if model.pipeline is not None:
        return type(model.pipeline)
    if "text_encoder_2" in model.components:
        return diffusers.StableDiffusionXLPipeline
    return diffusers.StableDiffusionPipeline


def _pipeline(model: Model) -> Any:
    """A pipeline object around the model's components, for its loading methods. Copies nothing."""
    if model.pipeline is not None:
        return model.pipeline
    if "text_encoder_2" in model.components:
        return diffusers.StableDiffusionXLPipeline(
            **model.components, scheduler=diffusers.DDIMScheduler(), add_watermarker=False
        )
    return diffusers.StableDiffusionPipeline(
        **model.components,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _file_with(name: str, digest: str, registry: Registry) -> Path:
    named = [registry.adapters[name]] if name in registry.adapters else []
    for entry in (*named, *registry.adapters.values()):
        try:
            if entry.digest == digest:
                return entry.file
        except ModelError:
            continue  # another adapter, whose file is not on this machine
    raise ModelError(f"no adapter here has the digest {digest[:10]}… ({name})")


def _convert(file: Path) -> str:
    return (
        'python -c "import torch; from safetensors.torch import save_file; '
        f"save_file(torch.load('{file.name}', weights_only=True), '{file.stem}.safetensors')\""
    )
