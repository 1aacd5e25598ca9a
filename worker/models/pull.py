"""Fetches a registered model from the Hugging Face Hub, at its pinned revision.

Only the files that will be loaded are fetched: no pickles, no other precisions, no safety checker.
From then on the weights digest identifies the model.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.added_models import AddedEntry
from imagemill.db.models.components import NO_PIXELS, weights_digest
from imagemill.db.models.hub_errors import asking_the_hub
from imagemill.db.models.registry import ModelEntry, Part
from imagemill.db.models.sources import is_hub_id
from imagemill.db.models.weights import choose_files
from imagemill.db.process.whole_file import naming
from imagemill.db.settings import Settings

_INDEX = "model_index.json"
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A fetched model: its digest, the number of its files, and their size in bytes."""

    name: str
    weights_digest: str
    files: int
    size: int


def pull(entry: ModelEntry, settings: Settings, *, endpoint: str | None = None) -> Pulled:
    """Fetch a model's files from the Hub into the model cache. Files that are there stay.

    `endpoint` is the Hub's address; by default `HF_ENDPOINT`, else the public Hub. The token is
    `HF_TOKEN`, or the one that `hf auth login` stored. Raises `ModelError` if the model is gated,
    missing or pickled, or if the Hub does not answer.
    """
    paths: set[Path] = set()
    for part in entry.hub_parts:
        where = f"model {entry.name}: {part.source}"
        with naming(entry.cache), asking_the_hub(where, part.revision):
            paths |= _pull_part(entry, part, endpoint, where)
    return _pulled(entry.name, weights_digest(entry), paths)


def pull_added(entry: AddedEntry, *, endpoint: str | None = None) -> Pulled:
    """Fetch a ControlNet or an IP-Adapter, as `pull` fetches a model."""
    paths: set[Path] = set()
    encoder = entry.image_encoder
    places = {(entry.source, entry.revision): True}
    if encoder is not None:
        places.setdefault((encoder.source, encoder.revision), False)
    for (source, revision), is_own in places.items():
        if not is_hub_id(source):
            continue
        where = f"{entry.name}: {source}"
        with naming(entry.cache), asking_the_hub(where, revision):
            listed = HfApi(endpoint=endpoint).list_repo_files(source, revision=revision)
            wanted = _adapter_files(entry, listed, where) if is_own else set()
            if encoder is not None and (encoder.source, encoder.revision) == (source, revision):
                wanted |= _folder_files(encoder.folder, None, listed, where)
            root = snapshot_download(
                source,
                revision=revision,
                cache_dir=entry.cache,
                endpoint=endpoint,
                allow_patterns=sorted(wanted),
            )
        paths |= {Path(root) / name for name in wanted}
    return _pulled(entry.name, entry.digest, paths)


def _pulled(name: str, digest: str, paths: Set[Path]) -> Pulled:
    size = sum(path.stat().st_size for path in paths)
    return Pulled(name=name, weights_digest=digest, files=len(paths), size=size)


def _adapter_files(entry: AddedEntry, listed: list[str], where: str) -> set[str]:
    """The files of a repository that a ControlNet or an IP-Adapter itself is loaded from."""
    if entry.weights is None:
        return _folder_files(entry.subfolder, entry.variant, listed, where)
    file = str(PurePosixPath(entry.subfolder) / entry.weights)
    if file not in listed:
        raise ModelError(f"{where} has no file {file}")
    return {file}


def _folder_files(folder: str, variant: str | None, listed: list[str], where: str) -> set[str]:
    """The files of a repository's folder that a module is loaded from."""
    inside = PurePosixPath(folder)
    names = [PurePosixPath(name) for name in listed]
    plain = sorted(path.name for path in names if path.parent == inside)
    if not plain:
        raise ModelError(f"{where} has no folder {folder}")
    return {str(inside / name) for name in choose_files(plain, variant, where=where)}


def _pull_part(entry: ModelEntry, part: Part, endpoint: str | None, where: str) -> set[Path]:
    listed = HfApi(endpoint=endpoint).list_repo_files(part.source, revision=part.revision)
    components: Set[str] = frozenset()
    if part.source == entry.source and _INDEX in listed:
        components = _components(entry, part, endpoint, where)
    wanted = _wanted_files(entry, part, listed, components, where)
    root = snapshot_download(
        part.source,
        revision=part.revision,
        cache_dir=entry.cache,
        endpoint=endpoint,
        allow_patterns=sorted(wanted),
    )
    return {Path(root) / name for name in wanted}


def _components(entry: ModelEntry, part: Part, endpoint: str | None, where: str) -> set[str]:
    """The folders of components that the repository's index names and that the entry loads.

    A repository may contain more: other precisions, an ONNX copy, checkpoints of the training.
    """
    file = hf_hub_download(
        part.source,
        _INDEX,
        revision=part.revision,
        cache_dir=entry.cache,
        endpoint=endpoint,
    )
    try:
        index = json.loads(Path(file).read_text("utf-8"))
        # A component is [library, class]. [null, null] means that this pipeline has none.
        named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    except (ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{where}: {_INDEX} can't be read: {first_line(error)}") from None
    return named - entry.parts.keys() - NO_PIXELS


def _wanted_files(
    entry: ModelEntry, part: Part, listed: list[str], components: Set[str], where: str
) -> set[str]:
    """The files of a repository that the entry loads from it."""
    folders: Mapping[str, list[str]] = defaultdict(list)
    for name in listed:
        path = PurePosixPath(name)
        folders["" if len(path.parts) == 1 else str(path.parent)].append(path.name)
    if part.file:
        if part.file not in listed:
            raise ModelError(f"{where} has no file {part.file}")
        return {part.file}
    if part.source == entry.source:
        wanted = {_INDEX} & set(folders[""])
        own = components if wanted else {""}
        variant = entry.variant
        wanted |= {f"{name}/{_CONFIG}" for name, each in entry.parts.items() if each.is_gguf}
    else:
        own, wanted, variant = {part.subfolder}, set(), part.variant
    for folder in sorted(own):
        if folder not in folders:
            raise ModelError(f"{where} has no folder {folder}")
        chosen = choose_files(sorted(folders[folder]), variant, where=f"{where}/{folder}")
        wanted |= {f"{folder}/{name}" if folder else name for name in chosen}
    return wanted
