"""What a model's entry in the registry says without effect: refused before anything is queued.

Workers do not ask: what was queued before stays renderable.
"""

import difflib
from collections.abc import Collection, Iterator

from imagemill.db.errors import ModelError
from imagemill.db.models.components import component_folders, index_components
from imagemill.db.models.quantization import DENOISER
from imagemill.db.models.registry import ModelEntry, Registry
from imagemill.db.models.sources import is_hub_id
from imagemill.db.models.weights import component_files

_GUIDED_PARTS = frozenset(
    {"refiner", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    | {"unet", "vae"}
)
"""The components that imagemill's own loop knows; a generic model has those of its index."""


def check_entry(entry: ModelEntry, registry: Registry) -> None:
    """Raise `ModelError` for the first value of an entry that would change nothing.

    What only the model's files can tell is not said of a model that is not on this machine.
    """
    problem = next(_problems(entry, registry), None)
    if problem is not None:
        raise ModelError(f"model {entry.name}: {problem}")


def _problems(entry: ModelEntry, registry: Registry) -> Iterator[str]:
    if entry.ip_adapter is not None and entry.ip_adapter not in registry.ip_adapters:
        there = ", ".join(registry.ip_adapters) or "none"
        yield f"ip_adapter: no IP-Adapter is called {entry.ip_adapter!r}; registered: {there}"
    elif entry.ip_adapter is not None and entry.kind != "generic":
        yield "ip_adapter is for kind = 'generic': the guided engine takes no IP-Adapter"
    if entry.config is not None and entry.single_file is None:
        yield "config is for a source that is one .safetensors file; a folder has its own"
    if entry.variant is not None and entry.single_file is not None:
        yield f"variant: {entry.variant!r}; one file has no variant"
    yield from _revision_problems(entry)
    yield from _part_problems(entry)
    yield from _variant_problems(entry)


def _revision_problems(entry: ModelEntry) -> Iterator[str]:
    # The configuration of a single file may come from the Hub.
    places = {"": entry.source if entry.single_file is None else entry.config or entry.source}
    revisions = {"": entry.revision}
    for name, part in entry.parts.items():
        places[f"parts.{name}: "] = part.source
        revisions[f"parts.{name}: "] = part.revision
    for where, place in places.items():
        if revisions[where] is not None and not is_hub_id(place or ""):
            found = f"{place} is on this machine" if place else "there is none"
            yield f"{where}revision is for a source on the Hub, and {found}"


def _part_problems(entry: ModelEntry) -> Iterator[str]:
    listed = index_components(entry)
    if listed is None and entry.kind == "generic":
        return
    for name in entry.quantization:
        if listed is not None and name not in {DENOISER, *listed}:
            yield f"quantization.{name}: {_known({DENOISER, *listed}, name)}"
    known = set(_GUIDED_PARTS if listed is None else listed)
    if entry.kind != "generic":
        known |= {"refiner"}
    for name in entry.parts:
        if name not in known:
            yield f"parts.{name}: {_known(known, name)}"


def _known(components: Collection[str], name: str) -> str:
    """Which components there are, and the one that a name nearly is."""
    near = difflib.get_close_matches(name, components, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"the pipeline has {', '.join(sorted(components))}{meant}"


def _variant_problems(entry: ModelEntry) -> Iterator[str]:
    wanted = {"": entry.variant if entry.single_file is None else None}
    wanted |= {f"parts.{name}: ": part.variant for name, part in entry.parts.items()}
    if not any(wanted.values()):
        return
    try:
        marked = _marked(entry)
    except ModelError:
        return  # its files are not here
    for where, variant in wanted.items():
        if variant is not None and not marked[where]:
            yield f"{where}variant: {variant!r}; no weights here have .{variant} in their names"


def _marked(entry: ModelEntry) -> dict[str, bool]:
    """Whether the source, and each part, has a file of its variant."""
    found = {"": False} | dict.fromkeys((f"parts.{name}: " for name in entry.parts), False)
    for component, (folder, variant) in component_folders(entry).items():
        place = f"parts.{component}: " if component in entry.parts else ""
        if variant is not None:
            names = [path.name for path in component_files(folder, variant)]
            found[place] |= any(f".{variant}" in name for name in names)
    return found
