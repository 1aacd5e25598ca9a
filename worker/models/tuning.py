"""Settings of speed and memory: applied when a model is loaded, and recorded.

None of them changes what a picture shows, but each may change its last bits. So each is a field of
the environment.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How a model is run.

    `attention` is the kernel of scaled-dot-product attention; with `sdpa` torch chooses. `offload`
    keeps text encoders and VAE in main memory while they are not used.
    """

    attention: str = "sdpa"
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False
    offload: bool = False
    vae_tiling: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of all inputs of the U-Net and the VAE."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def fields(self) -> dict[str, Any]:
        """The values that an environment records; those that are off are left out."""
        return {name: value for name, value in asdict(self).items() if value is not False}

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Within the block, attention runs on the chosen kernel."""
        chosen = BACKENDS.get(self.attention)
        with nullcontext() if chosen is None else sdpa_kernel(chosen):
            yield


def check_compiler(settings: Settings, device: torch.device) -> None:
    """Raise `SettingsError` if the denoiser is to be compiled but there is no compiler.

    Without this check the first forward pass would fail, and its images would be blamed for it.
    """
    if not settings.compile:
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise SettingsError("IMAGEMILL_COMPILE: needs triton on a GPU; install it, or unset this")
    # These are the compilers that torch's inductor and triton look for.
    named, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    wanted = (os.environ[named],) if os.environ.get(named) else usual
    if not any(shutil.which(compiler) for compiler in wanted):
        raise SettingsError(
            f"IMAGEMILL_COMPILE: there is no compiler {' or '.join(wanted)} here; install one, "
            f"name another with {named}, or unset this"
        )


def check_attention(tuning: Tuning, device: torch.device, dtype: torch.dtype) -> None:
    """A `SettingsError` if this device has no attention kernel of the kind, in this precision.

    As with `check_compiler`, images must not be accused of it.
    """
    heads = torch.zeros(1, 1, 8, 64, device=device, dtype=dtype)
    try:
        with tuning.attending():
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        precision = str(dtype).removeprefix("torch.")
        raise SettingsError(
            f"IMAGEMILL_ATTENTION: {device} has no kernel {tuning.attention!r} for {precision}; "
            "sdpa is torch's own choice"
        ) from None


def choose_tuning(settings: Settings, device: torch.device) -> Tuning:
    """The tuning that the settings ask for. On a GPU, channels last is the default.

    Raises `SettingsError` as `check_compiler` does.
    """
    check_compiler(settings, device)
    channels_last = settings.channels_last
    return Tuning(
        attention=settings.attention,
        channels_last=device.type == "cuda" if channels_last is None else channels_last,
        compiled=settings.compile,
        fused=settings.fuse_projections,
        offload=settings.cpu_offload,
        vae_tiling=settings.vae_tiling,
    )


def tune(components: Mapping[str, Any], tuning: Tuning) -> None:
    """Apply a tuning to a model's modules, in place."""
    denoisers = [components[name] for name in ("unet", "refiner") if name in components]
    vae = components.get("vae")
    for module in (*denoisers, *([] if vae is None else [vae])):
        if tuning.channels_last:
            module.to(memory_format=torch.channels_last)
        if tuning.fused:
            module.fuse_qkv_projections()
    if vae is not None and tuning.vae_tiling:
        vae.enable_tiling()
    if tuning.compiled:
        for denoiser in denoisers:
            # The whole U-Net is compiled. Its repeated blocks are only the transformers.
            denoiser.compile(dynamic=False)
    if tuning.offload:
        for name in resting(components):
            components[name].to("cpu")


def resting(components: Mapping[str, Any]) -> tuple[str, ...]:
    """The components that are used once for each image, not at every step."""
    return tuple(name for name in ("text_encoder", "text_encoder_2", "vae") if name in components)
