"""What a registered model can do, as far as its configuration tells without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from imagemill.db.errors import ModelError
from imagemill.db.models.components import component_folders
from imagemill.db.models.facts import ModelFacts, model_facts
from imagemill.db.models.family import NAMES
from imagemill.db.models.registry import ModelEntry
from imagemill.db.models.weights import component_files
from imagemill.scheduler_jobs.models.inspection import family_of

EVERYWHERE = ("attention", "channels_last", "compile", "cpu_offload", "fp8_storage")
"""The speed settings that every model has the means for."""

Lora = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Abilities:
    """What a model can do.

    - `family`: the name of its row in `db.models.families`; None if there is none.
    - `ways`: ways of working, such as `image-to-image`.
    - `lora`: whether diffusers loads a LoRA for it.
    - `speed`: the speed settings that its modules have the means for.
    - `speed_missing`: those that they have none for; unknown families may lack more.
    - `size`: the default (width, height) that its configuration says.
    - `bytes`: the bytes of each component's weights on this machine.
    """

    family: str | None
    pipeline: str
    ways: tuple[str, ...]
    lora: Lora
    speed: tuple[str, ...]
    speed_missing: tuple[str, ...]
    size: tuple[int, int]
    bytes: Mapping[str, int]


def abilities_of(entry: ModelEntry) -> Abilities:
    """The abilities of a model on this machine. Raises `ModelError` if its files are not here."""
    pipeline, family = family_of(entry)
    facts = model_facts(entry)
    lora: Lora = "unknown"
    if family is not None:
        lora = "yes" if family.lora else "no"
    lacks = frozenset() if family is None else family.lacks
    return Abilities(
        family=None if family is None else family.name,
        pipeline=pipeline,
        ways=_ways(entry, facts),
        lora=lora,
        speed=(*EVERYWHERE, *sorted(NAMES - lacks)),
        speed_missing=tuple(sorted(lacks)),
        size=facts.default_size,
        bytes=MappingProxyType(_bytes(entry)),
    )


def _ways(entry: ModelEntry, facts: ModelFacts) -> tuple[str, ...]:
    if entry.kind == "unconditional":
        return ("unconditional",)
    if entry.kind == "text_to_image":
        if facts.inpainting:
            return ("inpainting",)
        return ("text-to-image", "image-to-image", "inpainting")
    inputs = facts.inputs
    has = {
        "text-to-image": inputs.reference != "must" and not inputs.own_control,
        "image-to-image": bool(inputs.from_picture),
        "inpainting": bool(inputs.in_mask),
        "control-image": bool(inputs.controlled) or inputs.own_control,
        "reference-image": inputs.ip_adapter or inputs.reference != "no",
    }
    return tuple(name for name, there in has.items() if there)


def _bytes(entry: ModelEntry) -> dict[str, int]:
    found: dict[str, int] = {}
    if entry.single_file is not None:
        found["checkpoint"] = _size(entry.single_file)
    for component, (folder, variant) in component_folders(entry).items():
        if entry.single_file is not None and component not in entry.parts:
            continue
        files = component_files(folder, variant)
        found[component] = sum(_size(file) for file in files if file.suffix == ".safetensors")
    return {component: size for component, size in found.items() if size}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from None
