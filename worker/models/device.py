"""The device that a worker renders on, its precision, and the switches for equal bits."""

import os
import sys
from collections.abc import Mapping
from typing import Literal

import torch

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings, Workspace
from imagemill.worker.models.host_memory import keep_freed_memory

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}

DEFAULT_WORKSPACE: Workspace = ":16:8"
"""8 workspaces of 16 KiB for cuBLAS: the fewest kernels, and the default."""

_LT_WORKSPACES: Mapping[Workspace, str] = {":16:8": "1", ":4096:8": "32768"}
"""The workspace of cuBLASLt, in KiB, beside one of cuBLAS. 32 MiB is 8 x 4096 KiB."""


def prepare_process(settings: Settings) -> None:
    """Set threads, memory, the choice of algorithms and the libraries' logs for this process.

    Call it before anything uses a device. Safe to repeat.
    """
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    choose_algorithms(settings)
    # Imported here because `doctor` uses this module for the device only, and diffusers is slow.
    from imagemill.worker.models.library_logs import take_over_library_logs  # noqa: PLC0415  # see above

    take_over_library_logs(settings)


def choose_algorithms(settings: Settings) -> None:
    """Let torch use algorithms that repeat bits or, with `reproducible = false`, the fastest ones.

    diffusers' `enable_full_determinism` also sets CUDA_LAUNCH_BLOCKING, which stops computing and
    copying at the same time. So the switches are set one by one here. They may be set again at any
    time, but cuBLAS's workspaces stay as this process first had them.
    """
    fixed = settings.reproducible
    if fixed:
        _fix_workspaces(settings)
    # TF32 rounds what fp32 multiplies to 10 bits, which is what fp16 has: only whoever asks for
    # fp32 by name needs more.
    tf32 = not fixed and settings.dtype != "fp32"
    torch.backends.cudnn.deterministic = fixed
    torch.backends.cudnn.benchmark = not fixed
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.use_deterministic_algorithms(fixed, warn_only=True)
    # The line above also fills every new tensor with NaN. That costs time and finds no error here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's stubs lack it


def _fix_workspaces(settings: Settings) -> None:
    """Fix the workspaces of cuBLAS, which reads these variables when it makes its first handle.

    With one fixed workspace it always chooses the same split of a matrix product. A CPU has no
    cuBLAS, but its environments have always named the default: so they keep their identity.
    """
    on_cpu = settings.device == "cpu" or (
        settings.device == "auto" and not torch.cuda.is_available()
    )
    chosen = DEFAULT_WORKSPACE if on_cpu else settings.cublas_workspace
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", chosen)
    os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", _LT_WORKSPACES[chosen])


def algorithms_are_free() -> bool:
    """Whether this process may use algorithms that do not repeat bits (`reproducible = false`)."""
    return not torch.are_deterministic_algorithms_enabled()


def determinism_flags(device: torch.device) -> dict[str, bool | str | None]:
    """The current values of the switches, as an environment records them.

    The workspace of cuBLASLt is recorded where it is not the first one that imagemill had, so that
    older environments keep their identity.
    """
    lt_workspace = os.environ.get("CUBLASLT_WORKSPACE_SIZE")
    usual = device.type != "cuda" or lt_workspace == _LT_WORKSPACES[DEFAULT_WORKSPACE]
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        **({} if usual else {"cublaslt_workspace": lt_workspace}),
    }


def resolve_device(settings: Settings) -> torch.device:
    """The device that the settings name; `auto` is the first GPU, or the CPU if there is none.

    Raises `SettingsError` if there is no such device.
    """
    name = settings.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(
            f"IMAGEMILL_DEVICE: {name!r} is no device; allowed: auto, cpu, cuda, cuda:N"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("IMAGEMILL_DEVICE: cuda, but torch sees no GPU; use cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"IMAGEMILL_DEVICE: {name}, but there are {torch.cuda.device_count()}")
    return device


def device_class(device: torch.device) -> str:
    """A GPU's name, or `cpu`: devices of one class share their batch sizes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def resolve_precision(settings: Settings, model: Precision | None, device: str) -> Precision:
    """The precision to load in: the setting, else the model's own, else the device's default.

    On a CPU a model's own fp16 is ignored, because fp16 is 6 to 20 times slower there than fp32.
    `fastest` is `auto` here: `engine.fastest_precision` finds what it means for a model on a CPU.
    """
    match settings.dtype:
        case "fp16" | "bf16" | "fp32" as named:
            return named
    if device == "cpu":
        return "bf16" if model == "bf16" else "fp32"
    return model or "fp16"


def bf16_instructions() -> str | None:
    """The processor's instructions that multiply in bf16, `amx` or `avx512_bf16`; None without.

    Other processors compute bf16 in fp32, with conversions that make it slower.
    """
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16"):
        return "amx"
    return "avx512_bf16" if able.get("avx512_bf16") else None


def describe(settings: Settings) -> str:
    """One line with the device and the precision of models that have none of their own."""
    device = resolve_device(settings)
    precision = resolve_precision(settings, None, device.type)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        return f"{device}, {properties.name}, {memory:.0f} GiB, {precision}"
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    if settings.dtype == "fastest" and (instructions := bf16_instructions()) is not None:
        return f"{device}, {threads} a child, fp32 or bf16 ({instructions}), as a trial finds"
    return f"{device}, {threads} a child, {precision}"


def main() -> None:
    """Print `describe`, or one line that says what is wrong. `imagemill doctor` runs this."""
    try:
        sys.stdout.write(describe(Settings.load()) + "\n")
    except SettingsError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
