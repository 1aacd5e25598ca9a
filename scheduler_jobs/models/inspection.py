"""What a new model is: kind, family, parts with their sizes, precision and sensible defaults."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from imagemill.db.errors import ModelError
from imagemill.db.models.components import component_folders, pipeline_folder
from imagemill.db.models.facts import model_facts
from imagemill.db.models.families import FAMILIES, find_family
from imagemill.db.models.family import Family
from imagemill.db.models.headers import read_header
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.models.registry_tables import Kind
from imagemill.db.models.weights import choose_files, read_config
from imagemill.db.real_paths import real_path
from imagemill.scheduler_jobs.models.sources import Source

_INDEX = "model_index.json"
_DENOISERS = ("transformer", "unet", "decoder")
_PRECISIONS: Mapping[str, str] = MappingProxyType({"F16": "fp16", "BF16": "bf16"})
_GENERAL = Family(
    name="", title="", pipelines=(), size=None, steps=30, guidance_scale=5.0, dtype=None
)
"""The defaults of a pipeline that no row of the table knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPart:
    """A component: the class that loads it, and the bytes of the weights that will be loaded."""

    component: str
    class_name: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """What `models add` found out.

    `table` is the registry entry. `family` is None if no row of `db.models.families` fits.
    `other_variants` are the precisions that the source has besides.
    """

    kind: Kind
    pipeline: str
    family: Family | None
    parts: Sequence[FoundPart]
    table: Mapping[str, Any] = field(default_factory=dict)
    other_variants: Sequence[str] = ()

    @property
    def bytes(self) -> int:
        """The bytes of all weights that will be loaded."""
        return sum(part.bytes for part in self.parts)


def inspect_source(source: Source, *, variant: str | None, base: Path) -> FoundModel:
    """The model of a folder or a repository, with its entry for a registry file in `base`.

    Raises `ModelError` if it is no model that imagemill renders with: without an index, with
    weights only as pickles, or without the variant.
    """
    index = read_config(source.root, _INDEX)
    pipeline = str(index.get("_class_name", ""))
    flat = read_config(source.root)
    if not index and flat.get("_class_name") != "UNet2DModel":
        where = source.hub_name or source.root
        raise ModelError(f"{where}: no {_INDEX}: not a model in diffusers' layout")
    denoiser: Mapping[str, Any] = next(
        (read_config(source.root / name) for name in _DENOISERS if name in index), {}
    )
    family = find_family(pipeline or "DDPMPipeline", hub_name=source.hub_name, denoiser=denoiser)
    kind: Kind = "generic" if family is None else family.kind
    entry = ModelEntry(name="it", source=str(source.root), kind=kind, cache=Path(os.devnull))
    variants = _variants(source, index)
    if variant is None and variants and None not in variants:
        variant = variants[0]
    if variant is not None and variant not in variants:
        there = ", ".join(str(name) for name in variants if name) or "none"
        raise ModelError(f"{source.hub_name or source.root}: no variant {variant}; here: {there}")
    parts, files = _parts(source, entry, index, variant)
    dtype = _precision(source, files, family)
    table = {
        "source": source.hub_name or _written_path(source.root, base),
        "revision": source.revision,
        "kind": None if kind == "text_to_image" else kind,
        "variant": variant,
        "dtype": dtype,
        "license": source.license,
        "defaults": _defaults(entry, family or _GENERAL),
    }
    return FoundModel(
        kind=kind,
        pipeline=pipeline,
        family=family,
        parts=parts,
        table={key: value for key, value in table.items() if value is not None},
        other_variants=[name for name in variants if name and name != variant],
    )


def inspect_file(file: Path, *, like: str | None, registry: Registry, base: Path) -> FoundModel:
    """The model of a single-file checkpoint, as A1111 and ComfyUI use it.

    `like` is a folder or a registered model of the same architecture. Raises `ModelError` if the
    file is no checkpoint of Stable Diffusion or SDXL, or without `like`.
    """
    names = read_header(file)
    if not any(name.startswith("model.diffusion_model.") for name in names):
        raise ModelError(f"{file}: not a checkpoint of Stable Diffusion or SDXL")
    wanted = "stable_diffusion"
    if any(name.startswith("conditioner.embedders.") for name in names):
        wanted = "stable_diffusion_xl"
    family = next(row for row in FAMILIES if row.name == wanted)
    if like is None:
        raise ModelError(
            f"{file.name} is {family.title}; a single file does not say how its model is built: "
            "give --like = a folder, or a registered model, of the same architecture"
        )
    defaults: Mapping[str, Any] = family.defaults((512, 512))
    if like in registry.models:
        defaults = registry.models[like].defaults or defaults
    elif not Path(like).expanduser().is_dir():
        raise ModelError(f"--like: {like}: no such folder and no registered model")
    else:
        like = _written_path(Path(like).expanduser(), base)
    table = {
        "source": _written_path(file, base),
        "config": like,
        "defaults": dict(defaults),
    }
    part = FoundPart(component="checkpoint", class_name=file.name, bytes=file.stat().st_size)
    return FoundModel(
        kind="text_to_image",
        pipeline=family.pipelines[0],
        family=family,
        parts=[part],
        table=table,
    )


def family_of(entry: ModelEntry) -> tuple[str, Family | None]:
    """The pipeline class and the family of a registered model that is on this machine.

    Raises `ModelError` if its files are not here.
    """
    folders = component_folders(entry)
    denoiser = next((read_config(folders[n][0]) for n in _DENOISERS if n in folders), {})
    root = pipeline_folder(entry)
    index = {} if root is None else read_config(root, _INDEX)
    pipeline = str(index.get("_class_name", ""))
    if not pipeline and entry.kind == "unconditional":
        pipeline = "DDPMPipeline"
    elif not pipeline and entry.kind == "text_to_image":
        large = "text_encoder_2" in folders
        pipeline = "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"
    return pipeline, find_family(pipeline, hub_name=entry.source, denoiser=denoiser)


def _variants(source: Source, index: Mapping[str, Any]) -> list[str | None]:
    """The precisions in which the denoiser's weights lie there; None is the plain one."""
    folder = next((name for name in _DENOISERS if name in index), "")
    found: dict[str | None, None] = {}
    for path in source.sizes:
        name = PurePosixPath(path)
        if name.suffix == ".safetensors" and str(name.parent) == (folder or "."):
            marked = re.fullmatch(r"[^.]+\.([a-z0-9]+)(-\d+-of-\d+)?\.safetensors", name.name)
            found[marked.group(1) if marked else None] = None
    return sorted(found, key=lambda each: each or "")


def _parts(
    source: Source, entry: ModelEntry, index: Mapping[str, Any], variant: str | None
) -> tuple[list[FoundPart], dict[str, list[str]]]:
    """The components with their sizes, largest first; and each one's files of weights."""
    parts, files = [], {}
    for component in component_folders(entry):
        prefix = f"{component}/" if component in index else ""
        names = [
            path.removeprefix(prefix)
            for path in source.sizes
            if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
        ]
        where = f"{source.hub_name or source.root}/{component}"
        chosen = [
            f"{prefix}{name}"
            for name in choose_files(sorted(names), variant, where=where)
            if name.endswith(".safetensors")
        ]
        declared = index.get(component)
        class_name = declared[1] if isinstance(declared, list) and len(declared) > 1 else ""
        files[component] = chosen
        parts.append(
            FoundPart(
                component=component,
                class_name=str(class_name or ""),
                bytes=sum(source.sizes[name] for name in chosen),
            )
        )
    return sorted(parts, key=lambda part: -part.bytes), files


def _precision(
    source: Source, files: Mapping[str, Sequence[str]], family: Family | None
) -> str | None:
    """The precision for the entry: that of the denoiser's weights, else what suits the family."""
    weights = next((files[name] for name in _DENOISERS if files.get(name)), ())
    stored = source.weights_dtype(weights[0]) if weights else None
    if stored is not None and stored in _PRECISIONS:
        return _PRECISIONS[stored]
    return None if family is None else family.dtype


def _defaults(entry: ModelEntry, family: Family) -> dict[str, Any]:
    defaults = family.defaults(model_facts(entry).default_size)
    if family.kind == "unconditional":
        del defaults["guidance_scale"]
        defaults["sampler"] = "ddpm"
    return defaults


def _written_path(path: Path, base: Path) -> str:
    """A path as the registry file has it: relative to its folder if it is below it."""
    resolved = real_path(path)
    if resolved.is_relative_to(base):
        return f"./{resolved.relative_to(base).as_posix()}"
    return str(path.absolute())
