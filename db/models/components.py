"""Finds a model's components on this machine, and the files that decide its pixels."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.models.sources import is_hub_id
from imagemill.db.models.weights import (
    component_files,
    digest_of_files,
    read_config,
    snapshot_folder,
)

NO_PIXELS = frozenset({"safety_checker", "feature_extractor"})
"""Components of a pipeline that do not decide pixels."""

_CLASS_FILE = "model_index.json"
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_NO_COMPONENTS = NO_PIXELS | {"_class_name"}


def component_folders(entry: ModelEntry) -> Mapping[str, tuple[Path, str | None]]:
    """Component name → (its folder, the variant of its weights), for a model on this machine.

    For a single-file checkpoint these are the folders of its `config`. Raises `ModelError` if
    something is missing.
    """
    found: dict[str, tuple[Path, str | None]] = {}
    source = _layout(entry)
    if source is not None:
        root = _root(entry.name, source, entry.revision, entry.cache)
        for name in _listed_components(root):
            if name not in entry.parts and (name != "scheduler" or entry.scheduler is None):
                # The first unconditional models keep everything in one folder.
                folder = root / name if (root / name).is_dir() else root
                found[name] = (folder, entry.variant)
        if not found and (root / "config.json").is_file():
            found["unet"] = (root, entry.variant)
    for name, part in entry.parts.items():
        if part.is_gguf:
            # The file has only the weights; their configuration is the source's.
            own = _root(entry.name, str(entry.source), entry.revision, entry.cache)
            found[name] = (own / name, None)
            continue
        root = _root(f"{entry.name}: {name}", part.source, part.revision, entry.cache)
        found[name] = (root / part.subfolder, part.variant)
    return found


def gguf_files(entry: ModelEntry) -> Mapping[str, Path]:
    """Component → its GGUF file on this machine. Raises `ModelError` if one is missing."""
    found = {}
    for name, part in entry.parts.items():
        if not part.is_gguf:
            continue
        where = f"{entry.name}: {name}"
        file = Path(part.source)
        if part.file:
            file = _root(where, part.source, part.revision, entry.cache) / part.file
        if not file.is_file():
            raise ModelError(f"model {where}: {file}: no such file")
        found[name] = file
    return found


def pipeline_folder(entry: ModelEntry) -> Path | None:
    """The folder whose index describes a model's pipeline; None if the model has none."""
    if entry.source is None or entry.single_file is not None:
        return None
    root = _root(entry.name, entry.source, entry.revision, entry.cache)
    return root if (root / _CLASS_FILE).is_file() else None


def pipeline_options(entry: ModelEntry) -> Mapping[str, Any]:
    """The options in a pipeline folder's index, without components; empty for composed models."""
    source = _layout(entry)
    if source is None:
        return {}
    index = read_config(_root(entry.name, source, entry.revision, entry.cache), _CLASS_FILE)
    return {name: value for name, value in index.items() if not isinstance(value, list)}


def weights_digest(entry: ModelEntry) -> str:
    """SHA-256 (hex) over the files that decide the model's pixels.

    If the files are not on this machine, the digest in the registry is returned. If they are, and
    the registry has another digest, `ModelError` is raised.
    """
    try:
        digest = digest_of_files(_deciding_files(entry), entry.cache)
        if entry.quantization:
            # Quantised weights are a model of their own, although its files are the same.
            schemes = json.dumps(dict(entry.quantization), sort_keys=True)
            digest = hashlib.sha256(f"{digest}\0{schemes}".encode()).hexdigest()
    except ModelError:
        if entry.digest is not None:
            return entry.digest
        raise
    except OSError as error:
        # For example an embedding's file that the registry names and that is missing.
        raise ModelError(f"model {entry.name}: {error.filename}: {error.strerror}") from None
    if entry.digest is not None and entry.digest != digest:
        raise ModelError(
            f"model {entry.name}: the weights here are {digest[:10]}…, the registry says "
            f"{entry.digest[:10]}…; pull it again, or correct the registry"
        )
    return digest


def find_weights(registry: Registry, digest: str, *, name: str) -> ModelEntry:
    """The entry whose weights have this digest. The entry with this name is tried first.

    A name may mean other weights on another machine, so the digest decides. Raises `ModelError` if
    no entry on this machine has it.
    """
    named = [registry.models[name]] if name in registry.models else []
    for entry in (*named, *registry.models.values()):
        try:
            if weights_digest(entry) == digest:
                return entry
        except ModelError:
            continue  # another model, whose files are not here
    raise ModelError(
        f"no model here has the weights {digest[:10]}… that {name} meant when it was submitted; "
        "pull that revision, or correct the registry"
    )


def license_of(registry: Registry, name: str, digest: str) -> str | None:
    """The licence that the registry gives for these weights; None where it can't be told.

    A name may mean other weights by now, so the digest must be the entry's own.
    """
    entry = registry.models.get(name)
    if entry is None or entry.license is None:
        return None
    try:
        return entry.license if weights_digest(entry) == digest else None
    except ModelError:
        return None


def index_components(entry: ModelEntry) -> tuple[str, ...] | None:
    """The components in a model's own index that decide pixels; None if it has no index here."""
    layout = _layout(entry)
    try:
        root = None if layout is None else _root(entry.name, layout, entry.revision, entry.cache)
    except ModelError:
        return None
    if root is None or not (root / _CLASS_FILE).is_file():
        return None
    return _listed_components(root)


def _layout(entry: ModelEntry) -> str | None:
    """The folder (or Hub id) that describes how a model is built; for a single file, `config`."""
    return entry.source if entry.single_file is None else entry.config


def _root(where: str, source: str, revision: str | None, cache: Path) -> Path:
    if not is_hub_id(source):
        root = Path(source)
        if not root.is_dir():
            if root.is_relative_to(cache):
                raise ModelError(
                    f"model {where}: the model that its config names is not on this machine; run "
                    "`imagemill models pull` for it"
                )
            raise ModelError(f"model {where}: {root}: no such folder")
        return root
    root = snapshot_folder(cache, source, revision or "")
    if revision is None or not root.is_dir():
        name = where.split(":", 1)[0]
        raise ModelError(f"model {where}: not on this machine; run `imagemill models pull {name}`")
    return root


def _listed_components(root: Path) -> tuple[str, ...]:
    """The components in a pipeline folder's `model_index.json` that decide pixels."""
    index = read_config(root, _CLASS_FILE)
    names = tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and value[:1] != [None] and name not in _NO_COMPONENTS
    )
    for name in names:
        # A component's name is used as a folder's name, and the index may come from anybody.
        if _COMPONENT.fullmatch(name) is None:
            raise ModelError(f"{root / _CLASS_FILE}: {name[:60]!r} is no component's name")
    return names


def _deciding_files(entry: ModelEntry) -> dict[str, Path]:
    files: dict[str, Path] = {}
    if entry.single_file is not None:
        if not entry.single_file.is_file():
            raise ModelError(f"model {entry.name}: {entry.single_file}: no such file")
        files["checkpoint"] = entry.single_file
    quantised = gguf_files(entry)
    for component, (folder, variant) in component_folders(entry).items():
        weights = entry.single_file is None or component in entry.parts
        if component in quantised:
            files[f"{component}/{quantised[component].name}"] = quantised[component]
            weights = False
        for path in component_files(folder, variant, weights=weights):
            files[f"{component}/{path.name}"] = path
    zeroes = "force_zeros_for_empty_prompt" in pipeline_options(entry)
    layout = _layout(entry)
    if layout is not None and (zeroes or entry.kind == "generic"):
        # For these models, the class and options of the pipeline decide pixels too.
        index = _root(entry.name, layout, entry.revision, entry.cache) / _CLASS_FILE
        if index.is_file():
            files[_CLASS_FILE] = index
    for token, path in entry.embeddings.items():
        if not path.is_file():
            raise ModelError(f"model {entry.name}: embedding {token}: {path}: no such file")
        files[f"embeddings/{token}"] = path
    if not files:
        raise ModelError(f"model {entry.name}: {entry.source}: no {_CLASS_FILE} and no weights")
    return files
