"""Settings of speed and memory: applied when a model is loaded, and recorded.

None of them changes what a picture shows, but each may change its last bits. So each is a field of
the environment.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import diffusers
import torch
import transformers
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagemill.db.errors import SettingsError, first_line
from imagemill.db.settings import Settings

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
_OF_DIFFUSERS = "diffusers:"
_GROUPS = {"block": "block_level", "leaf": "leaf_level"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How a model is run.

    `attention` is the kernel of scaled-dot-product attention; with `sdpa` torch chooses, and
    `diffusers:NAME` is a backend of diffusers. `offload` keeps text encoders and VAE in main memory
    while they are not used, `group_offload` also the denoisers but for the blocks in use.
    `quantization` says how the weights are stored.
    """

    attention: str = "sdpa"
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False
    offload: bool = False
    vae_tiling: bool = False
    compiled_regions: bool = False
    compiled_decoder: bool = False
    compile_mode: str | None = None
    group_offload: str | None = None
    fp8_storage: bool = False
    vae_slicing: bool = False
    quantization: str | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of all inputs of the U-Net and the VAE."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def fields(self) -> dict[str, Any]:
        """The values that an environment records; those that are off are left out."""
        return {name: value for name, value in asdict(self).items() if value not in (False, None)}

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Within the block, attention runs on the chosen kernel."""
        chosen = BACKENDS.get(self.attention)
        with nullcontext() if chosen is None else sdpa_kernel(chosen):
            yield


def check_compiler(settings: Settings, device: torch.device) -> None:
    """Raise `SettingsError` if a module is to be compiled but there is no compiler.

    Without this check the first forward pass would fail, and its images would be blamed for it.
    """
    if not (settings.compile or settings.compile_regions or settings.compile_vae):
        return
    if settings.compile and settings.compile_regions:
        raise SettingsError("IMAGEMILL_COMPILE_REGIONS: unset this or IMAGEMILL_COMPILE")
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
    backend = _backend(tuning)
    heads = torch.zeros(1, 8, 8, 64, device=device, dtype=dtype)
    try:
        with tuning.attending():
            if backend is None:
                torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
            else:
                dispatch_attention_fn(heads, heads, heads, backend=backend)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError, ValueError, TypeError) as error:
        precision = str(dtype).removeprefix("torch.")
        why = "" if backend is None else f" ({first_line(error)})"
        raise SettingsError(
            f"IMAGEMILL_ATTENTION: {device} has no kernel {tuning.attention!r} for {precision}"
            f"{why}; sdpa is torch's own choice"
        ) from None


def choose_tuning(settings: Settings, device: torch.device, *, generic: bool = False) -> Tuning:
    """The tuning that the settings ask for.

    On a GPU channels last is the default, but not for `generic` pipelines: most of their denoisers
    have no convolutions. Raises `SettingsError` as `check_compiler` does.
    """
    check_compiler(settings, device)
    channels_last = settings.channels_last
    if channels_last is None:
        channels_last = device.type == "cuda" and not generic
    compiles = settings.compile or settings.compile_regions or settings.compile_vae
    return Tuning(
        attention=settings.attention,
        channels_last=channels_last,
        compiled=settings.compile,
        compiled_regions=settings.compile_regions,
        compiled_decoder=settings.compile_vae,
        compile_mode=settings.compile_mode if compiles else None,
        fused=settings.fuse_projections,
        offload=settings.cpu_offload,
        group_offload=settings.group_offload,
        fp8_storage=settings.fp8_storage,
        vae_tiling=settings.vae_tiling,
        vae_slicing=settings.vae_slicing,
    )


def tune(
    components: Mapping[str, Any], tuning: Tuning, device: torch.device, *, generic: bool = False
) -> None:
    """Apply a tuning to a model's modules, in place.

    With `generic` they belong to a pipeline that calls them itself, so that what rests must be
    fetched by hooks; the guided engine fetches it (`Model.using`). Raises `SettingsError`, which
    names the setting and the class, if a module has no means for it.
    """
    denoisers, decoders = _denoisers(components), _decoders(components)
    for denoiser in denoisers:
        _tune_denoiser(denoiser, tuning)
    for decoder in decoders:
        _tune_decoder(decoder, tuning)
    if tuning.channels_last:
        for module in (*denoisers, *decoders):
            _store_channels_last(module)
    _compile(denoisers, decoders, tuning)
    if tuning.group_offload is not None:
        for denoiser in denoisers:
            _fetch_when_used(denoiser, device, tuning.group_offload)
    if tuning.offload and generic:
        for module in _resting_modules(components):
            _fetch_when_used(module, device, "leaf")
    elif tuning.offload:
        for name in resting(components):
            components[name].to("cpu")


def resting(components: Mapping[str, Any]) -> tuple[str, ...]:
    """The components that are used once for each image, not at every step."""
    return tuple(name for name in ("text_encoder", "text_encoder_2", "vae") if name in components)


def set_attention(denoiser: Any, tuning: Tuning) -> None:
    """Let a denoiser's attention, which may be new, run on the chosen backend of diffusers."""
    backend = _backend(tuning)
    if backend is not None:
        _set_backend(denoiser, backend, tuning.attention)


def _tune_denoiser(denoiser: Any, tuning: Tuning) -> None:
    set_attention(denoiser, tuning)
    if tuning.fused:
        _call(denoiser, "fuse_qkv_projections", "FUSE_PROJECTIONS")
    if tuning.fp8_storage:
        # The norms and embeddings that diffusers leaves out of it stay in the precision.
        denoiser.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=denoiser.dtype
        )


def _tune_decoder(decoder: Any, tuning: Tuning) -> None:
    if tuning.fused and hasattr(decoder, "fuse_qkv_projections"):
        decoder.fuse_qkv_projections()
    if tuning.vae_tiling:
        _call(decoder, "enable_tiling", "VAE_TILING")
    if tuning.vae_slicing:
        _call(decoder, "enable_slicing", "VAE_SLICING")


def _denoisers(components: Mapping[str, Any]) -> list[Any]:
    """The modules of diffusers that are called at every step: all but the autoencoders."""
    return [module for module in _models(components) if not hasattr(module, "decode")]


def _decoders(components: Mapping[str, Any]) -> list[Any]:
    return [module for module in _models(components) if hasattr(module, "decode")]


def _models(components: Mapping[str, Any]) -> list[Any]:
    return [each for each in components.values() if isinstance(each, diffusers.ModelMixin)]


def _call(module: Any, method: str, setting: str) -> None:
    if not hasattr(module, method):
        raise SettingsError(f"IMAGEMILL_{setting}: {type(module).__name__} can't do that")
    try:
        getattr(module, method)()
    except (ValueError, NotImplementedError) as error:
        raise SettingsError(
            f"IMAGEMILL_{setting}: {type(module).__name__}: {first_line(error)}"
        ) from None


def _backend(tuning: Tuning) -> AttentionBackendName | None:
    """The backend of diffusers that a tuning asks for; None for torch's own kernels."""
    if not tuning.attention.startswith(_OF_DIFFUSERS):
        return None
    name = tuning.attention.removeprefix(_OF_DIFFUSERS)
    # Backends of the Hub are code that is fetched when it is first used.
    known = {each.value: each for each in AttentionBackendName if "hub" not in each.value}
    if name not in known:
        raise SettingsError(
            f"IMAGEMILL_ATTENTION: diffusers has no backend {name!r} that needs no download; "
            f"it has {', '.join(sorted(known))}"
        )
    return known[name]


def _set_backend(module: Any, backend: AttentionBackendName, wanted: str) -> None:
    """Let a denoiser's attention run on a backend.

    `set_attention_backend` would change the backend of all other models of the process too, and do
    nothing for a module whose attention does not ask for a backend.
    """
    processors = [
        each.processor
        for each in module.modules()
        if hasattr(getattr(each, "processor", None), "_attention_backend")
    ]
    if not processors:
        raise SettingsError(
            f"IMAGEMILL_ATTENTION: the attention of {type(module).__name__} can't run on {wanted!r}"
        )
    for processor in processors:
        processor._attention_backend = backend


def _store_channels_last(module: torch.nn.Module) -> None:
    # Module.to() refuses modules with convolutions of three dimensions among the others.
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _compile(denoisers: Sequence[Any], decoders: Sequence[Any], tuning: Tuning) -> None:
    options: dict[str, Any] = {"dynamic": False}
    if tuning.compile_mode is not None:
        options["mode"] = tuning.compile_mode
    for denoiser in denoisers:
        if tuning.compiled:
            denoiser.compile(**options)
        if tuning.compiled_regions:
            if not getattr(denoiser, "_repeated_blocks", None):
                raise SettingsError(
                    f"IMAGEMILL_COMPILE_REGIONS: {type(denoiser).__name__} names no repeated "
                    "blocks; IMAGEMILL_COMPILE compiles the whole"
                )
            denoiser.compile_repeated_blocks(**options)
    for decoder in decoders:
        if tuning.compiled_decoder:
            if not isinstance(getattr(decoder, "decoder", None), torch.nn.Module):
                name = type(decoder).__name__
                raise SettingsError(f"IMAGEMILL_COMPILE_VAE: {name} has no decoder of its own")
            decoder.decoder.compile(**options)


def _resting_modules(components: Mapping[str, Any]) -> list[Any]:
    encoders = [
        each for each in components.values() if isinstance(each, transformers.PreTrainedModel)
    ]
    return [*encoders, *_decoders(components)]


def _fetch_when_used(module: Any, device: torch.device, groups: str) -> None:
    """Keep a module in main memory; its blocks or layers go to the device while they compute."""
    apply_group_offloading(
        module,
        onload_device=device,
        offload_type=_GROUPS[groups],
        num_blocks_per_group=1 if groups == "block" else None,
    )
