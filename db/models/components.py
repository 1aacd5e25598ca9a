"""Where a model's components lie on this machine, and which of their files decide its pixels."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.registry import ModelEntry, Registry, is_hub_id
from imagemill.db.models.weights import component_files, digest_of_files, snapshot_folder

NO_PIXELS = frozenset({"safety_checker", "feature_extractor"})
_CLASS_FILE = "model_index.json"
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_MOST_CONFIG_BYTES = 1 << 24
_NO_COMPONENTS = NO_PIXELS | {"_class_name"}


def component_folders(entry: ModelEntry) -> Mapping[str, tuple[Path, str | None]]:
    """Component name → (its folder, its weights' variant), for a model that is here.

    Of a single-file checkpoint the folders of the `config` that it follows. A `ModelError` in
    one line where something is missing.
    """
    found: dict[str, tuple[Path, str | None]] = {}
    source = _layout(entry)
    if source is not None:
        root = _root(entry.name, source, entry.revision, entry.cache)
        for name in _listed_components(root):
            if name not in entry.parts and (name != "scheduler" or entry.scheduler is None):
                # Unconditional models of the first days keep everything in one folder.
                folder = root / name if (root / name).is_dir() else root
                found[name] = (folder, entry.variant)
        if not found and (root / "config.json").is_file():
            found["unet"] = (root, entry.variant)
    for name, part in entry.parts.items():
        root = _root(f"{entry.name}: {name}", part.source, part.revision, entry.cache)
        found[name] = (root / part.subfolder, part.variant)
    return found


def pipeline_folder(entry: ModelEntry) -> Path | None:
    """The folder whose index says what a model's pipeline is; None if the model has none."""
    if entry.source is None or entry.single_file is not None:
        return None
    root = _root(entry.name, entry.source, entry.revision, entry.cache)
    return root if (root / _CLASS_FILE).is_file() else None


def pipeline_options(entry: ModelEntry) -> Mapping[str, Any]:
    """What a pipeline folder's index says besides its components; empty for composed models."""
    source = _layout(entry)
    if source is None:
        return {}
    index = read_config(_root(entry.name, source, entry.revision, entry.cache), _CLASS_FILE)
    return {name: value for name, value in index.items() if not isinstance(value, list)}


def weights_digest(entry: ModelEntry) -> str:
    """SHA-256 (hex) over the files that decide the model's pixels, or the recorded digest.

    The recorded digest counts where the files are not on this machine. Where they are, they must
    agree with it: otherwise a `ModelError`.
    """
    try:
        digest = digest_of_files(_deciding_files(entry), entry.cache)
    except ModelError:
        if entry.digest is not None:
            return entry.digest
        raise
    if entry.digest is not None and entry.digest != digest:
        raise ModelError(
            f"model {entry.name}: the weights here are {digest[:10]}…, the registry says "
            f"{entry.digest[:10]}…; pull it again, or correct the registry"
        )
    return digest


def find_weights(registry: Registry, digest: str, *, name: str) -> ModelEntry:
    """The entry whose weights have this digest: the one of that name, else any other.

    A `ModelError` if there is none on this machine: names may mean other weights elsewhere.
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


def read_config(folder: Path, name: str = "config.json") -> Mapping[str, Any]:
    """A component's configuration; empty if the file is not there."""
    path = folder / name
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST_CONFIG_BYTES:
        raise ModelError(f"{path}: more than {_MOST_CONFIG_BYTES:,} bytes, for a configuration")
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {first_line(error)}") from None
    return document if isinstance(document, dict) else {}


def _layout(entry: ModelEntry) -> str | None:
    """The folder (or Hub id) that says how a model is built: a single file's is another's."""
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
    """The components that a pipeline folder's `model_index.json` lists and that decide pixels."""
    index = read_config(root, _CLASS_FILE)
    names = tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and value[:1] != [None] and name not in _NO_COMPONENTS
    )
    for name in names:
        # It becomes a folder's name, and the index is whatever came with the weights.
        if _COMPONENT.fullmatch(name) is None:
            raise ModelError(f"{root / _CLASS_FILE}: {name[:60]!r} is no component's name")
    return names


def _deciding_files(entry: ModelEntry) -> dict[str, Path]:
    files: dict[str, Path] = {}
    if entry.single_file is not None:
        if not entry.single_file.is_file():
            raise ModelError(f"model {entry.name}: {entry.single_file}: no such file")
        files["checkpoint"] = entry.single_file
    for component, (folder, variant) in component_folders(entry).items():
        weights = entry.single_file is None or component in entry.parts
        for path in component_files(folder, variant, weights=weights):
            files[f"{component}/{path.name}"] = path
    zeroes = "force_zeros_for_empty_prompt" in pipeline_options(entry)
    layout = _layout(entry)
    if layout is not None and (zeroes or entry.kind == "generic"):
        # The pipeline's class and options are part of what these models compute.
        index = _root(entry.name, layout, entry.revision, entry.cache) / _CLASS_FILE
        if index.is_file():
            files[_CLASS_FILE] = index
    for token, path in entry.embeddings.items():
        files[f"embeddings/{token}"] = path
    if not files:
        raise ModelError(f"model {entry.name}: {entry.source}: no {_CLASS_FILE} and no weights")
    return files
