"""The memory of a process's card: how much of it the process may have, and how much it takes."""

from typing import Protocol

import diffusers
import torch

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import canonical_json, sha256_of
from imagemill.worker.models.tuning import choose_tuning


class DeviceMemory(Protocol):
    """The memory of one device for this process, in bytes. Tests have one that is not there."""

    def available(self) -> int:
        """What this process may have of it now: what is free, and what it holds already."""

    def allocated(self) -> int:
        """What this process's tensors take now."""

    def peak(self) -> int:
        """The most that its tensors took at once since the last `reset_peak`."""

    def reset_peak(self) -> None:
        """Count the peak from now on."""


class CudaMemory:
    """The memory of a GPU, as the driver and torch's allocator count it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def available(self) -> int:
        """See `DeviceMemory`; a limit that somebody set for this process counts."""
        free, total = torch.cuda.mem_get_info(self._device)
        mine = free + torch.cuda.memory_reserved(self._device)
        return min(mine, int(total * torch.cuda.get_per_process_memory_fraction(self._device)))

    def allocated(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """See `DeviceMemory`."""
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        """See `DeviceMemory`."""
        torch.cuda.reset_peak_memory_stats(self._device)


def memory_of(device: torch.device) -> DeviceMemory | None:
    """The memory of a device; None for a CPU, whose memory belongs to the whole machine."""
    return CudaMemory(device) if device.type == "cuda" else None


def tuning_digest(settings: Settings, device: torch.device) -> str:
    """SHA-256 of all that a model's need of memory depends on, except for the model itself.

    Generations of GPUs have different kernels, so they do not share what they found out. New
    libraries, or another precision of any model in the registry, make everything be tried again.
    """
    cuda = device.type == "cuda"
    models = load_registry(settings).models
    return sha256_of(
        canonical_json(
            {
                "device": device.type,
                "generation": torch.cuda.get_device_capability(device)[0] if cuda else None,
                "precision": settings.dtype,
                "precisions": {name: entry.dtype for name, entry in models.items() if entry.dtype},
                "tuning": choose_tuning(settings, device).fields(),
                **_free(settings),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
            }
        )
    )


def _free(settings: Settings) -> dict[str, object]:
    """The settings of algorithms that are not the defaults: others need other workspaces."""
    chosen = {"reproducible": settings.reproducible, "cublas_workspace": settings.cublas_workspace}
    return {
        name: value
        for name, value in chosen.items()
        if value != Settings.model_fields[name].default
    }
