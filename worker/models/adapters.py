"""LoRA adapters and textual-inversion embeddings: safetensors files added to a loaded model.

Adapters belong to a group: while an engine of that group works, the model wears exactly them.
Embeddings belong to the model's registry entry and are loaded with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.registry import Registry
from imagemill.worker.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class WornAdapter:
    """A LoRA file on this machine, its SHA-256, and how strongly it is applied."""

    digest: str
    weight: float
    file: Path


def find_adapters(
    group: Sequence[Mapping[str, Any]], registry: Registry
) -> tuple[WornAdapter, ...]:
    """The files of a group's adapters (`ImageSpec.group()["adapters"]`), in its order.

    By name where that has the digest, else whichever registered file has it; a `ModelError` if
    none has.
    """
    return tuple(
        WornAdapter(
            digest=adapter["digest"],
            weight=float(adapter["weight"]),
            file=_file_with(adapter["name"], adapter["digest"], registry),
        )
        for adapter in group
    )


def wear(model: Model, adapters: tuple[WornAdapter, ...]) -> None:
    """Make the model wear these adapters and no others; nothing happens if it does already.

    Without adapters the model's modules are its own again, bit for bit. A `ModelError` if a file
    does not fit the model.
    """
    wanted = tuple((adapter.digest, adapter.weight) for adapter in adapters)
    if model.active_adapters == wanted:
        return
    if adapters and find_spec("peft") is None:
        raise ModelError("adapters need peft: pip install 'imagemill[lora]'")
    if adapters and model.tuning.fused:
        raise ModelError("adapters do not fit fused projections: unset IMAGEMILL_FUSE_PROJECTIONS")
    pipeline = _pipeline(model)
    # Weights made under inference mode could never be taken off again.
    with torch.inference_mode(mode=False), torch.no_grad():
        if model.active_adapters:
            pipeline.unload_lora_weights()
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
        except Exception as error:  # diffusers and peft tell a misfit in a dozen ways
            pipeline.unload_lora_weights()
            files = ", ".join(adapter.file.name for adapter in adapters)
            raise ModelError(f"adapters {files} do not fit model {model.name}: {error}") from error
        for module in model.components.values():
            if isinstance(module, torch.nn.Module):
                module.to(model.device).eval().requires_grad_(False)
    model.active_adapters = wanted


def add_embeddings(model: Model, embeddings: Mapping[str, Path]) -> None:
    """Teach the model's tokenizers and text encoders some tokens; a `ModelError` if one can't be.

    A token of several vectors takes as many places in the prompt's window. A model of two text
    encoders (SDXL) takes files with vectors for each, under the keys `clip_l` and `clip_g`.
    """
    if not embeddings:
        return
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
    """The text with every embedding's token written once for each of its vectors."""
    convert = diffusers.loaders.TextualInversionLoaderMixin().maybe_convert_prompt
    return str(convert(text, tokenizer))


def _vectors(model: Model) -> Sequence[tuple[str | None, str]]:
    """Which vectors of an embedding's file are for which text encoder: (key, its suffix).

    A file for one encoder has one key, whatever that is.
    """
    if "text_encoder_2" in model.components:
        return (("clip_l", ""), ("clip_g", "_2"))
    return ((None, ""),)


def _pipeline(model: Model) -> Any:
    """A pipeline object around the model's components: it has the loaders, nothing is copied."""
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
