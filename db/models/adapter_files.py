"""Whether files are what the registry calls them: LoRAs, IP-Adapters, ControlNets.

Only headers are read, so this needs no torch, and a wrong file is refused when a manifest is
submitted. diffusers tells the kinds apart by the same names of tensors.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from imagemill.db.errors import ModelError
from imagemill.db.models.headers import read_shapes

_LORA = re.compile(r"lora\w*[._](A|B|up|down)(\.|$)|lora_linear_layer|\.lokr_")
_PROJECTION = ("image_proj.", "ip_adapter_proj_model.")
_ATTENTION = ("ip_adapter.", "double_blocks.")
_LONGEST_NAME = 80


def check_lora(file: Path) -> None:
    """Raise `ModelError` if a file is no LoRA."""
    names = read_shapes(file)
    if not any(_LORA.search(name) for name in names):
        allowed = "lora_A, lora_down or lora.down"
        raise ModelError(f"{file}: no LoRA: {told(names)}; names of a LoRA have {allowed}")


def check_ip_adapter(file: Path) -> None:
    """Raise `ModelError` if a file is no IP-Adapter."""
    names = read_shapes(file)
    for prefixes in (_PROJECTION, _ATTENTION):
        if not any(name.startswith(prefixes) for name in names):
            allowed = " or ".join(f"{prefix}…" for prefix in prefixes)
            raise ModelError(f"{file}: no IP-Adapter: {told(names)}; one has {allowed}")


def check_controlnet(files: Iterable[Path]) -> None:
    """Raise `ModelError` if the files together are no ControlNet."""
    names: list[str] = []
    for file in files:
        names += read_shapes(file)
    if not any(name.startswith("controlnet_") for name in names):
        raise ModelError(f"{file}: no ControlNet: {told(names)}; one has controlnet_…")


def told(names: Collection[str]) -> str:
    """`3 tensors, such as conv_in.weight`."""
    if not names:
        return "no tensors"
    first = min(names)
    such = first if len(first) <= _LONGEST_NAME else f"{first[:_LONGEST_NAME]}…"
    return f"{len(names):,} tensors, such as {such}" if len(names) > 1 else f"one tensor, {such}"
