"""The model registry: names in manifests → weights, exact revision, defaults.

It is a TOML file (the setting `models`). The model `shapes64` is always registered.

    [models.sd15]
    source = "stable-diffusion-v1-5/stable-diffusion-v1-5"      # a Hub id, a folder, a .safetensors
    revision = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"       # 40 hex digits, for a Hub id
    variant = "fp16"
    license = "creativeml-openrail-m"                            # as the Hub writes it
    defaults = { width = 512, height = 512, steps = 25, guidance_scale = 7.5, sampler = "dpmpp_2m" }

    [models.composed.parts]                                     # also over a source: a VAE override
    vae = { source = "stabilityai/sd-vae-ft-ema", revision = "…" }
    scheduler = { class = "LMSDiscreteScheduler", beta_schedule = "scaled_linear", … }

    [models.small_flux]                                         # docs/models.md: quantised weights
    kind = "generic"
    quantization = "int8"

    [adapters]
    pixel_art = "pixel_art.safetensors"                         # a LoRA, in `adapters_folder`

ControlNets and IP-Adapters have tables of their own: `added`.
"""

import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from imagemill.db.errors import ModelError
from imagemill.db.models.adapter_files import check_lora
from imagemill.db.models.added_models import AddedEntry, AddedTable
from imagemill.db.models.quantization import chosen_schemes
from imagemill.db.models.registry_tables import (
    Kind,
    ModelTable,
    PartTable,
    RegistryFile,
    read_registry,
)
from imagemill.db.models.scorer_tables import ScorerTable
from imagemill.db.models.sources import check_revision, find_source, is_hub_id
from imagemill.db.models.table_words import first_problem
from imagemill.db.models.weights import (
    file_digest,
    hub_cache,
    snapshot_folder,
)
from imagemill.db.real_paths import real_path
from imagemill.db.samplers.names import find_sampler
from imagemill.db.samplers.options import option_problem
from imagemill.db.settings import Settings

BUILT_IN = "shapes64"

_DEFAULTABLE = frozenset(
    {"width", "height", "steps", "guidance_scale", "sampler", "negative_prompt", "clip_skip"}
    | {"guidance_rescale", "strength", "sampler_options", "format", "quality"}
    | {"long_prompts", "prompt_weighting", "refiner_start", "guidance_start", "guidance_end"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The place of one component: a Hub id with its revision, or a local path; and a subfolder.

    `file` is a GGUF file with the component's weights, in a repository; a local one is
    the `source`.
    """

    source: str
    revision: str | None = None
    subfolder: str = ""
    variant: str | None = None
    file: str = ""

    @property
    def is_gguf(self) -> bool:
        """Whether the part is one GGUF file, whose configuration is the source's."""
        return (self.file or self.source).endswith(".gguf")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """A registered model.

    `source` holds every component, unless `parts` names another place for one. `scheduler` is a
    sampler configuration (diffusers' keys and `class`); without it the model's own counts.
    `embeddings` maps a token to its textual-inversion file. `digest` is the one that `models pull`
    recorded; weights with another digest are refused. Exports repeat `license`. `config` is a
    folder or a registered model: a single-file checkpoint uses the component configurations of
    that model. `ip_adapter` is the registered IP-Adapter that reads its reference images.
    `quantization` has a scheme (`db.models.quantization`) for each quantised component.
    """

    name: str
    source: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    digest: str | None = None
    license: str | None = None
    kind: Kind = "text_to_image"
    config: str | None = None
    ip_adapter: str | None = None
    parts: Mapping[str, Part] = field(default_factory=lambda: MappingProxyType({}))
    scheduler: Mapping[str, Any] | None = None
    embeddings: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    quantization: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cache: Path

    @property
    def single_file(self) -> Path | None:
        """The checkpoint, if the source is one `.safetensors` file."""
        if self.source is not None and self.source.endswith(".safetensors"):
            return Path(self.source)
        return None

    @property
    def hub_parts(self) -> tuple[Part, ...]:
        """The parts that must be fetched from the Hub."""
        own = () if self.source is None else (Part(source=self.source, revision=self.revision),)
        return tuple(part for part in (*own, *self.parts.values()) if is_hub_id(part.source))


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterEntry:
    """A registered LoRA: its name, its safetensors file and that file's SHA-256."""

    name: str
    file: Path

    @property
    def problem(self) -> str | None:
        """Why it can't be used here; None if its file is a LoRA. Only its header is read."""
        if self.file.suffix != ".safetensors":
            return f"adapter {self.name}: {self.file.name} is not a .safetensors file"
        if not os.path.isfile(self.file):  # noqa: PTH113  # False also where nobody may look
            return f"adapter {self.name}: {self.file} is not there"
        try:
            check_lora(self.file)
        except ModelError as error:
            return f"adapter {self.name}: {error.message}"
        return None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file. Raises `ModelError` if it is missing or not safetensors."""
        if self.file.suffix != ".safetensors":
            raise ModelError(f"adapter {self.name}: {self.file.name} is not a .safetensors file")
        try:
            return file_digest(self.file)
        except OSError as error:
            raise ModelError(f"adapter {self.name}: {self.file}: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Every model and adapter that a manifest may name, and the scorers with a model."""

    models: Mapping[str, ModelEntry]
    adapters: Mapping[str, AdapterEntry]
    controlnets: Mapping[str, AddedEntry] = field(default_factory=lambda: MappingProxyType({}))
    ip_adapters: Mapping[str, AddedEntry] = field(default_factory=lambda: MappingProxyType({}))
    scorers: Mapping[str, ScorerTable] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, name: str) -> ModelEntry:
        """The model of that name. Raises `ModelError`, which lists the registered ones."""
        if name in self.models:
            return self.models[name]
        raise ModelError(f"no model is called {name!r}; registered: {', '.join(self.models)}")

    def find_adapter(self, name: str) -> AdapterEntry:
        """The adapter of that name. Raises `ModelError`, which lists the registered ones."""
        if name in self.adapters:
            return self.adapters[name]
        there = ", ".join(self.adapters) or "none"
        raise ModelError(f"no adapter is called {name!r}; registered: {there}")

    def tables_of(self, name: str) -> tuple[str, ...]:
        """The registry's tables that have a name; `models` for one that is not known."""
        tables = ("models", "controlnets", "ip_adapters")
        return tuple(table for table in tables if name in getattr(self, table)) or tables[:1]

    def find_controlnet(self, name: str) -> AddedEntry:
        """The ControlNet of that name. Raises `ModelError`, which lists the registered ones."""
        return _find("ControlNet", name, self.controlnets)

    def find_ip_adapter(self, name: str) -> AddedEntry:
        """The IP-Adapter of that name. Raises `ModelError`, which lists the registered ones."""
        return _find("IP-Adapter", name, self.ip_adapters)


def _find(what: str, name: str, entries: Mapping[str, AddedEntry]) -> AddedEntry:
    if name in entries:
        return entries[name]
    there = ", ".join(entries) or "none"
    raise ModelError(f"no {what} is called {name!r}; registered: {there}")


def load_registry(settings: Settings) -> Registry:
    """The built-in model, the models and adapters of the registry file, and the adapters folder.

    Raises `ModelError` if the file can't be read or an entry is wrong.
    """
    cache = hub_cache(settings.model_cache)
    document = RegistryFile()
    base = Path()
    if settings.models is not None:
        document = read_registry(settings.models)
        base = real_path(settings.models).parent
    models = {BUILT_IN: _built_in(cache)}
    for name, table in document.models.items():
        models[name] = _entry(name, table, base, cache)
    for name, entry in models.items():
        if entry.config in models:
            models[name] = replace(entry, config=_config_folder(models[entry.config]))
    folder = settings.adapters_folder or base
    adapters = {}
    if settings.adapters_folder is not None:
        for path in sorted(settings.adapters_folder.glob("*.safetensors")):
            adapters[path.stem] = AdapterEntry(name=path.stem, file=path)
    for name, file in document.adapters.items():
        adapters[name] = AdapterEntry(name=name, file=folder / file)
    return Registry(
        models=MappingProxyType(models),
        adapters=MappingProxyType(adapters),
        controlnets=_added(document.controlnets, base, cache),
        ip_adapters=_added(document.ip_adapters, base, cache),
        scorers=MappingProxyType(document.scorers),
    )


def _added(tables: Mapping[str, AddedTable], base: Path, cache: Path) -> Mapping[str, AddedEntry]:
    return MappingProxyType({name: each.entry(name, base, cache) for name, each in tables.items()})


def _built_in(cache: Path) -> ModelEntry:
    spec = importlib.util.find_spec("imagemill.worker")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    folder = Path(places[0]) / BUILT_IN if places else Path(BUILT_IN)
    defaults = {
        "width": 64,
        "height": 64,
        "steps": 20,
        "guidance_scale": 4.0,
        "sampler": "ddim",
    }
    return ModelEntry(
        name=BUILT_IN,
        source=str(folder),
        license="apache-2.0",
        defaults=MappingProxyType(defaults),
        cache=cache,
    )


def _entry(name: str, table: ModelTable, base: Path, cache: Path) -> ModelEntry:
    where = f"model {name}"
    scheduler = None
    parts = {}
    for component, values in table.parts.items():
        if component == "scheduler" and "class" in values:
            scheduler = MappingProxyType(dict(values))
            continue
        try:
            read = PartTable.model_validate(values)
        except ValidationError as error:
            problem = first_problem(error, {"": PartTable})
            raise ModelError(f"{where}: part {component}: {problem}") from None
        parts[component] = Part(**(read.model_dump() | {"source": find_source(read.source, base)}))
    if table.source is None and not parts:
        raise ModelError(f"{where}: give a source or parts")
    entry = ModelEntry(
        name=name,
        cache=cache,
        scheduler=scheduler,
        parts=MappingProxyType(parts),
        embeddings=MappingProxyType({t: base / path for t, path in table.embeddings.items()}),
        defaults=MappingProxyType(_defaults(where, table.defaults)),
        quantization=chosen_schemes(where, table.quantization, table.kind),
        **table.model_dump(
            exclude={"parts", "embeddings", "defaults", "source", "config", "quantization"}
        ),
        source=None if table.source is None else find_source(table.source, base),
        config=_config(table.config, base),
    )
    _check_gguf(entry)
    for part in entry.hub_parts:
        check_revision(where, part.source, part.revision)
    return entry


def _check_gguf(entry: ModelEntry) -> None:
    for name, part in entry.parts.items():
        if part.file and not part.is_gguf:
            raise ModelError(f"model {entry.name}: part {name}: file is for a .gguf file")
        if not part.is_gguf:
            continue
        if entry.kind != "generic" or entry.source is None:
            raise ModelError(
                f"model {entry.name}: part {name}: a .gguf file needs kind = 'generic' and a "
                "source, whose configuration describes it"
            )
        if name in entry.quantization:
            raise ModelError(f"model {entry.name}: part {name} is quantised already")


def _defaults(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    for key in given:
        if key not in _DEFAULTABLE:
            allowed = ", ".join(sorted(_DEFAULTABLE))
            near = difflib.get_close_matches(key, _DEFAULTABLE, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"{where}: defaults.{key} is not known; allowed: {allowed}{meant}")
    defaults = dict(given)
    if "sampler" in defaults:
        sampler = find_sampler(str(defaults["sampler"]))
        if sampler is None:
            raise ModelError(f"{where}: defaults.sampler: no sampler {defaults['sampler']!r}")
        defaults["sampler"] = sampler.name
    options = defaults.get("sampler_options", {})
    if not isinstance(options, Mapping):
        raise ModelError(f"{where}: defaults.sampler_options: {options!r}; allowed: a table")
    for name, value in options.items():
        problem = option_problem(name, value)
        if problem is not None:
            found, allowed = problem
            raise ModelError(f"{where}: defaults.sampler_options: {found}; allowed: {allowed}")
    return defaults


def _config(text: str | None, base: Path) -> str | None:
    """A folder made absolute; the name of a registered model unchanged."""
    if text is None or not (base / text).is_dir():
        return text
    return str(base / text)


def _config_folder(entry: ModelEntry) -> str | None:
    """The folder of a model whose configuration another model uses; also for one from the Hub."""
    if entry.source is None or not is_hub_id(entry.source):
        return entry.source
    return str(snapshot_folder(entry.cache, entry.source, entry.revision or ""))
