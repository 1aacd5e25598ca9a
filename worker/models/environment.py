"""An environment: the fingerprint of hardware, software and shapes that pixels depend on.

In one environment the same specification gives the same pixels. With recorded batches that holds
within the same composition, and with `reproducible = false` nothing is promised. In another
environment the pixels are nearly the same, but imagemill makes no promise.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import numpy
import tokenizers
import torch
import transformers

from imagemill.db.settings import Batches
from imagemill.db.specs import canonical_json
from imagemill.worker.models.device import Precision, algorithms_are_free, determinism_flags
from imagemill.worker.models.tuning import Tuning

_LIBRARIES = (torch, diffusers, transformers, tokenizers, numpy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """The fixed shapes of an engine's forward passes.

    A denoiser call has `slots` images, which is twice as many rows with guidance. A text encoder
    call has `prompts` texts, and each text has `windows` windows. A decoder call has `pictures`
    latents. `width` and `height` are in pixels.
    """

    slots: int
    prompts: int
    pictures: int
    width: int
    height: int
    windows: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where and how images were rendered. Equal documents promise equal bits, if not `free`."""

    fields: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """The environment as JSON values."""
        return dict(self.fields)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the document."""
        return hashlib.sha256(canonical_json(self.document()).encode()).hexdigest()

    @property
    def free(self) -> bool:
        """Whether algorithms were chosen for speed, so that even here no bits are promised."""
        return self.fields.get("reproducible") is False

    def changed(self, **fields: Any) -> "Environment":
        """A copy of this environment with other values for some fields."""
        return replace(self, fields=MappingProxyType(dict(self.fields) | fields))


def describe_environment(
    *,
    device: torch.device,
    precision: Precision,
    vae_precision: Precision | None = None,
    shapes: Shapes,
    batches: Batches,
    group: Mapping[str, Any],
    adapters: list[dict[str, Any]],
    tuning: Tuning | None = None,
) -> Environment:
    """The environment of an engine of these shapes for a group, in this process.

    More than seven parameters: each is one thing that pixels may depend on.
    """
    document = {
        **_hardware(device),
        **{module.__name__: str(module.__version__) for module in _LIBRARIES},
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "flags": determinism_flags(device),
        # Left out where bits repeat, so that older environments keep their identity.
        **({"reproducible": False} if algorithms_are_free() else {}),
        "tuning": (tuning or Tuning()).fields(),
        "dtype": precision,
        "vae_dtype": vae_precision or precision,
        "weights_digest": group["weights_digest"],
        "guided": group["guided"],
        "adapters": adapters,
        "shapes": asdict(shapes),
        "batches": batches,
        **_added(group),
    }
    return Environment(fields=MappingProxyType(document))


def _added(group: Mapping[str, Any]) -> dict[str, Any]:
    """The ControlNet and the IP-Adapter of a group, without their names.

    A group without them adds nothing, so its fingerprint is what it was before there were any.
    """
    found: dict[str, Any] = {}
    if "controlnet" in group:
        found["controlnet"] = {"digest": group["controlnet"]["digest"]}
    if "ip_adapter" in group:
        adapter = group["ip_adapter"]
        found["ip_adapter"] = {"digest": adapter["digest"], "scale": float(adapter["scale"])}
    return found


def _hardware(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "device": "cuda",
            "device_name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": _driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's gap
        }
    return {
        "device": device.type,
        "device_name": cpu_name(),
        # The vector instructions that torch uses (AVX2, AVX512, …). Bits differ between them.
        "capability": torch.backends.cpu.get_cpu_capability(),
        "driver": None,
        "cuda": None,
        "cudnn": None,
    }


def cpu_name() -> str:
    """The processor's name, or that of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _driver_version() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8")
    except OSError:
        return None
    words = text.split()
    numbers = [word for word in words if word[:1].isdigit() and word.count(".") >= 1]
    return numbers[0] if numbers else None
