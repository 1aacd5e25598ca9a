"""Loads any other diffusers pipeline, as the `model_index.json` of its folder describes it.

A folder may name any module to import and bring code of its own. So only classes of diffusers and
transformers are accepted, and everything else is refused before anything is loaded.
"""

import inspect
from collections.abc import Mapping
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from imagemill.db.errors import ModelError
from imagemill.db.models.components import NO_PIXELS, gguf_files, pipeline_folder
from imagemill.db.models.registry import ModelEntry
from imagemill.db.models.weights import read_config
from imagemill.worker.models.quantization import load_gguf, quantization_config, schemes_of

Pipeline = Any
"""A `diffusers.DiffusionPipeline`. The library ships no types."""

_LIBRARIES: Mapping[str, Any] = {"diffusers": diffusers, "transformers": transformers}
_INDEX = "model_index.json"


def load_pipeline(
    entry: ModelEntry,
    folders: Mapping[str, tuple[Path, str | None]],
    dtype: torch.dtype,
    device: torch.device,
) -> Pipeline:
    """The pipeline of a registry entry of kind `generic`, on the CPU.

    `device` is the one that it will be moved to. `folders` are those of its components
    (`db.models.components.component_folders`). Raises `ModelError` if the folder asks for code
    other than diffusers' or transformers' own.
    """
    root = pipeline_folder(entry)
    if root is None:
        raise ModelError(
            f"model {entry.name}: kind = 'generic' needs a source with a {_INDEX}; parts and a "
            "scheduler may replace components of it"
        )
    index = read_config(root, _INDEX)
    pipeline_class = _pipeline_class(entry.name, index.get("_class_name"))
    for name, (folder, _) in folders.items():
        _check_component(entry.name, name, folder, index.get(name))
    quantised = gguf_files(entry)
    given = {
        name: _load_part(index[name], *folders[name], dtype)
        for name in entry.parts
        if name in folders and name not in quantised
    }
    for name, file in quantised.items():
        given[name] = load_gguf(entry.name, _class_of(index[name]), file, folders[name][0], dtype)
    schemes = schemes_of(entry, index)
    if schemes:
        given["quantization_config"] = quantization_config(entry.name, schemes, dtype, device)
    if entry.scheduler is not None:
        given["scheduler"] = _scheduler(entry.name, entry.scheduler)
    accepted = inspect.signature(pipeline_class.__init__).parameters
    given |= dict.fromkeys(NO_PIXELS & accepted.keys())
    if "requires_safety_checker" in accepted:
        given["requires_safety_checker"] = False
    if "add_watermarker" in accepted:
        # The default adds a watermark only if a certain package is installed.
        given["add_watermarker"] = False
    return pipeline_class.from_pretrained(
        root,
        dtype=dtype,
        variant=entry.variant,
        local_files_only=True,
        use_safetensors=True,
        **given,
    )


def copy_pipeline(pipeline: Pipeline, kind: Any = None, **added: Any) -> Pipeline:
    """A pipeline that shares this one's modules but has samplers, guiders and state of its own.

    `kind` is another class of pipelines for the same modules (by default the same class), `added`
    are modules that it needs besides. This is diffusers' `from_pipe`, but it never moves a module.
    """
    given = dict(added)
    kind = kind or type(pipeline)
    for name in inspect.signature(kind.__init__).parameters:
        if name in given:
            continue
        if name in pipeline.components:
            component = pipeline.components[name]
            if isinstance(component, diffusers.SchedulerMixin):
                component = type(component).from_config(component.config)
            elif isinstance(component, diffusers.BaseGuidance):
                component = deepcopy(component)
            given[name] = component
        elif name in pipeline.config:
            given[name] = pipeline.config[name]
    found = kind(**given)
    found.set_progress_bar_config(disable=True)
    return found


def template_of(pipeline: Pipeline, kind: Any = None, **added: Any) -> Pipeline:
    """A copy as by `copy_pipeline` that is never called, only copied by `fresh_copy`.

    Its class is one of its own: diffusers looks through all submodules for the device of a call,
    every time, and this one knows it.
    """
    found = copy_pipeline(pipeline, kind, **added)
    kind, device = type(found), found._execution_device
    members = {"_execution_device": property(lambda _: device), "__module__": kind.__module__}
    found.__class__ = type(kind.__name__, (kind,), members)
    return found


def fresh_copy(template: Pipeline) -> Pipeline:
    """A copy that shares everything but samplers and guiders: a call changes nothing else in place.

    It takes a fraction of the time of `copy_pipeline`, because it asks no constructor.
    """
    found = copy(template)
    for name, component in vars(template).items():
        if isinstance(component, diffusers.SchedulerMixin | diffusers.BaseGuidance):
            vars(found)[name] = deepcopy(component)
    return found


def pipeline_class(name: str) -> Any:
    """The class of diffusers' pipelines with this name; a `ModelError` if it has none."""
    found = getattr(diffusers, name, None)
    if not _is_a(found, diffusers.DiffusionPipeline):
        raise ModelError(f"diffusers {diffusers.__version__} has no pipeline {name!r}")
    return found


def denoisers(pipeline: Pipeline) -> dict[str, torch.nn.Module]:
    """The modules that a pipeline calls while it draws, by name: diffusers' own models.

    An autoencoder is none of them: pipelines call its `encode` and `decode`.
    """
    return {
        name: component
        for name, component in pipeline.components.items()
        if isinstance(component, diffusers.ModelMixin) and not hasattr(component, "decode")
    }


def _pipeline_class(model: str, name: object) -> Any:
    """The class that the index names, from diffusers' own namespace; else a `ModelError`."""
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not _is_a(found, diffusers.DiffusionPipeline):
        raise ModelError(
            f"model {model}: diffusers {diffusers.__version__} has no pipeline {name!r}; code "
            "that comes with weights is never run"
        )
    return found


def _check_component(model: str, name: str, folder: Path, declared: object) -> None:
    """Raise `ModelError` unless the component is a class of diffusers or transformers."""
    library, class_name = declared if isinstance(declared, list) else (None, None)
    if not isinstance(class_name, str) or getattr(_library(library), class_name, None) is None:
        raise ModelError(
            f"model {model}: component {name} is {library}.{class_name}, which neither diffusers "
            f"{diffusers.__version__} nor transformers {transformers.__version__} has"
        )
    if any(folder.glob("*.py")):
        raise ModelError(f"model {model}: {folder} holds code, which is never run")


def _library(name: object) -> Any:
    """The module that an index means by a library: diffusers, transformers, or a package of
    pipelines within diffusers.
    """
    if isinstance(name, str) and inspect.ismodule(getattr(diffusers.pipelines, name, None)):
        return getattr(diffusers.pipelines, name)
    return _LIBRARIES.get(str(name))


def _class_of(declared: list[str]) -> Any:
    library, class_name = declared
    return getattr(_library(library), class_name)


def _load_part(declared: list[str], folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """A component from a folder of its own, of the class that the index names."""
    component_class = _class_of(declared)
    options: dict[str, Any] = {"local_files_only": True}
    if issubclass(component_class, torch.nn.Module):
        options |= {"dtype": dtype, "use_safetensors": True, "variant": variant}
    return component_class.from_pretrained(folder, **options)


def _scheduler(model: str, given: Mapping[str, Any]) -> Any:
    config = dict(given)
    name = config.pop("class")
    found: Any = getattr(diffusers, name, None)
    if not _is_a(found, diffusers.SchedulerMixin):
        raise ModelError(f"model {model}: diffusers has no scheduler {name!r}")
    return found.from_config(config)


def _is_a(found: object, base: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, base)
