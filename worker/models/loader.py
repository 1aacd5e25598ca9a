"""Loads registered models onto a device, and keeps a few of them loaded.

Only safetensors files on this machine are loaded (`pull` fetches them). Code that comes with a
model is never run, and a safety checker is left out. Components are loaded one by one, so a model
may consist of parts from several repositories.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from cachetools import LRUCache
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError

from imagemill.db.errors import ModelError, OutOfMemory, first_line
from imagemill.db.models.components import (
    component_folders,
    pipeline_options,
    weights_digest,
)
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import ModelEntry
from imagemill.db.models.weights import read_config
from imagemill.db.settings import Settings
from imagemill.worker import metrics
from imagemill.worker.models.adapters import add_embeddings
from imagemill.worker.models.device import DTYPES, Precision, resolve_device, resolve_precision
from imagemill.worker.models.device_memory import DeviceMemory
from imagemill.worker.models.host_memory import return_freed_memory
from imagemill.worker.models.model import Model
from imagemill.worker.models.pipelines import load_pipeline
from imagemill.worker.models.quantization import described
from imagemill.worker.models.tuning import check_attention, choose_tuning, tune

log = logging.getLogger(__name__)

_TEXT_ENCODERS = {
    "text_encoder": transformers.CLIPTextModel,
    "text_encoder_2": transformers.CLIPTextModelWithProjection,
}
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_REFINER = "refiner"
_DENOISERS = {
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "UNet2DModel": diffusers.UNet2DModel,
}


def load_model(
    entry: ModelEntry,
    *,
    settings: Settings,
    device: torch.device | None = None,
    precision: Precision | None = None,
) -> Model:
    """The model of a registry entry, ready to render.

    Without `device` or `precision`, the settings decide. Raises `ModelError` if files are missing,
    unsafe or not those that the registry names, and `OutOfMemory` if the model does not fit.
    """
    # The libraries' progress bars are for notebooks. A worker's log is for operators.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # its gap
    diffusers.utils.logging.disable_progress_bar()
    device = device or resolve_device(settings)
    precision = precision or resolve_precision(settings, entry.dtype, device.type)
    digest = weights_digest(entry)
    facts = model_facts(entry)
    folders = component_folders(entry)
    try:
        pipeline = None
        if entry.kind == "generic":
            pipeline = load_pipeline(entry, folders, DTYPES[precision], device)
            components = dict(pipeline.components)
        else:
            components = _load_components(entry, folders, DTYPES[precision])
        _place(components, device)
        if pipeline is None:
            _widen_vae(components, precision)
        tuning = choose_tuning(settings, device, generic=pipeline is not None)
        tuning = replace(tuning, quantization=described(entry))
        check_attention(tuning, device, DTYPES[precision])
        tune(components, tuning, device, generic=pipeline is not None)
        refiner = _take_refiner(entry, components)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"model {entry.name} does not fit on {device}: {error}") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"model {entry.name}: {first_line(error)}") from error
    model = Model(
        name=entry.name,
        kind=entry.kind,
        weights_digest=digest,
        device=device,
        precision=precision,
        facts=facts,
        components=components,
        refiner=refiner,
        scheduler_config=_scheduler_config(entry, folders) if pipeline is None else {},
        tuning=tuning,
        pipeline=pipeline,
        index=pipeline_options(entry),
        has_embeddings=bool(entry.embeddings),
    )
    add_embeddings(model, entry.embeddings)
    return_freed_memory()
    log.info("loaded model %s on %s in %s", entry.name, device, precision)
    return model


class WarmModels:
    """The models that stay loaded in this process: the `settings.warm_models` last used ones.

    `memory` is that of the device, if what the models take of it is to be known.
    """

    def __init__(self, settings: Settings, memory: DeviceMemory | None = None) -> None:
        self._settings = settings
        self._memory = memory
        self._warm: LRUCache[str, Model] = LRUCache(settings.warm_models)
        self._sizes: dict[str, int] = {}

    def get(self, entry: ModelEntry, precision: Precision | None = None) -> Model:
        """The entry's model; it is loaded first if necessary. Raises what `load_model` raises.

        Without `precision` the settings decide.
        """
        digest = weights_digest(entry)
        if digest in self._warm:
            if precision in (None, self._warm[digest].precision):
                return self._warm[digest]
            del self._warm[digest]
        # The old model goes before the new one is loaded: both together may not fit.
        while len(self._warm) >= self._warm.maxsize:
            self._drop_oldest()
        before = self._allocated()
        with metrics.MODEL_LOAD_SECONDS.labels(entry.name).time():
            model = load_model(entry, settings=self._settings, precision=precision)
        self._sizes[digest] = self._allocated() - before
        self._warm[digest] = model
        return model

    def drop_others(self, digest: str) -> bool:
        """Unload every model but this one; whether there was another."""
        others = [each for each in self._warm if each != digest]
        kept = self._warm.pop(digest, None)
        while self._warm:
            self._drop_oldest()
        if kept is not None:
            self._warm[digest] = kept
        return bool(others)

    def size(self, digest: str) -> int:
        """The bytes of the device that a loaded model took when it was loaded; 0 if not known."""
        return self._sizes.get(digest, 0)

    def _drop_oldest(self) -> None:
        digest, _ = self._warm.popitem()
        self._sizes.pop(digest, None)
        return_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _allocated(self) -> int:
        return 0 if self._memory is None else self._memory.allocated()

    @property
    def digests(self) -> tuple[str, ...]:
        """The weights digests of the loaded models, in the order in which they were loaded."""
        return tuple(self._warm)


def _load_components(
    entry: ModelEntry, folders: Mapping[str, tuple[Path, str | None]], dtype: torch.dtype
) -> dict[str, Any]:
    components = {
        name: _load_component(name, folder, variant, dtype)
        for name, (folder, variant) in folders.items()
        if name != "scheduler" and (entry.single_file is None or name in entry.parts)
    }
    if entry.single_file is not None:
        names = folders.keys() - {"scheduler", _REFINER}
        components |= _load_checkpoint(entry, entry.single_file, names, components, dtype)
    return components


def _place(components: Mapping[str, Any], device: torch.device) -> None:
    """Move a model's modules to the device, in evaluation mode."""
    for component in components.values():
        if isinstance(component, torch.nn.Module):
            component.to(device).eval().requires_grad_(False)


def _widen_vae(components: Mapping[str, Any], precision: Precision) -> None:
    """Set SDXL's VAE to fp32, as diffusers' pipeline does: in fp16 it overflows."""
    if "text_encoder_2" in components and components["vae"].config.force_upcast:
        components["vae"].to(torch.float32 if precision == "fp16" else DTYPES[precision])


def _take_refiner(entry: ModelEntry, components: dict[str, Any]) -> Any:
    """Remove the refiner's U-Net from `components` and return it; None if there is none.

    A refiner reads the embeddings of the second text encoder only. Raises `ModelError` if their
    sizes do not agree.
    """
    refiner = components.pop(_REFINER, None)
    if refiner is None:
        return None
    encoder = components.get("text_encoder_2")
    if encoder is None:
        raise ModelError(f"model {entry.name}: a refiner is for models of two text encoders")
    read, said = refiner.config.cross_attention_dim, encoder.config.hidden_size
    if read != said or refiner.config.addition_embed_type != "text_time":
        raise ModelError(
            f"model {entry.name}: the refiner reads embeddings of {read}, the second text encoder "
            f"makes them of {said}: these do not belong together"
        )
    return refiner


def _load_checkpoint(
    entry: ModelEntry,
    file: Path,
    names: Collection[str],
    given: Mapping[str, Any],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The named components of a single-file checkpoint, as A1111 and ComfyUI use them.

    The file need not contain the components that are `given`.
    """
    if entry.config is None:
        raise ModelError(
            f"model {entry.name}: a single file does not say how its model is built; give "
            "config = a folder, or a registered model, of the same architecture"
        )
    options: dict[str, Any] = {"feature_extractor": None}
    if "text_encoder_2" in names:
        pipeline_class: Any = diffusers.StableDiffusionXLPipeline
        options |= {"add_watermarker": False}
    else:
        pipeline_class = diffusers.StableDiffusionPipeline
        options |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = pipeline_class.from_single_file(
            str(file),
            config=entry.config,
            dtype=dtype,
            local_files_only=True,
            **{name: given[name] for name in given.keys() & names},
            **options,
        )
    except (KeyError, ValueError, SingleFileComponentError) as error:
        raise ModelError(
            f"model {entry.name}: {file.name} is not what its config describes: {first_line(error)}"
        ) from error
    return {name: pipeline.components[name] for name in sorted(names)}


def _load_component(name: str, folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    if name in _TOKENIZERS:
        return transformers.CLIPTokenizer.from_pretrained(
            folder, local_files_only=True, clean_up_tokenization_spaces=False
        )
    if name in _TEXT_ENCODERS:
        return _TEXT_ENCODERS[name].from_pretrained(
            folder,
            dtype=dtype,
            variant=_present(folder, variant),
            use_safetensors=True,
            local_files_only=True,
        )
    if name == "vae":
        return diffusers.AutoencoderKL.from_pretrained(
            folder,
            dtype=dtype,
            variant=_present(folder, variant),
            use_safetensors=True,
            local_files_only=True,
        )
    if name in ("unet", _REFINER):
        wanted = str(read_config(folder).get("_class_name", "UNet2DConditionModel"))
        if wanted not in _DENOISERS:
            raise ModelError(f"{folder}: no engine for {wanted}; give the model kind = 'generic'")
        return _DENOISERS[wanted].from_pretrained(
            folder,
            dtype=dtype,
            variant=_present(folder, variant),
            use_safetensors=True,
            local_files_only=True,
        )
    raise ModelError(f"{folder}: component {name} is not known; give the model kind = 'generic'")


def _present(folder: Path, variant: str | None) -> str | None:
    """The variant, if this component has it. A plain VAE beside an fp16 U-Net is common."""
    if variant is not None and any(folder.glob(f"*.{variant}*.safetensors")):
        return variant
    return None


def _scheduler_config(
    entry: ModelEntry, folders: Mapping[str, tuple[Path, str | None]]
) -> Mapping[str, Any]:
    if entry.scheduler is not None:
        config = dict(entry.scheduler)
        config["_class_name"] = config.pop("class")
    elif "scheduler" in folders:
        config = dict(read_config(folders["scheduler"][0], "scheduler_config.json"))
    else:
        raise ModelError(f"model {entry.name}: no scheduler configuration; add parts.scheduler")
    if "vae" in folders:
        # By default diffusers' DDIM and DDPM clip the latents to [-1, 1], which ruins them.
        config.setdefault("clip_sample", False)
    return config
