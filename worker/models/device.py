"""The device that a worker renders on, its precision, and the switches for equal bits."""

import os
import sys
from collections.abc import Mapping
from typing import Literal

import torch

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def prepare_process(settings: Settings) -> None:
    """Set threads, determinism and the libraries' logs for this process.

    Call it before anything uses a device.

    diffusers' `enable_full_determinism` also sets CUDA_LAUNCH_BLOCKING, which stops computing and
    copying at the same time. So the switches are set one by one here.
    """
    # cuBLAS reads these when it makes its first handle. With one fixed workspace it always chooses
    # the same split of a matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "1")
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The line above also fills every new tensor with NaN. That costs time and finds no error here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's stubs lack it
    # Imported here because `doctor` uses this module for the device only, and diffusers is slow.
    from imagemill.worker.models.library_logs import take_over_library_logs  # noqa: PLC0415  # see above

    take_over_library_logs(settings)


def determinism_flags() -> dict[str, bool | str | None]:
    """The current values of the switches, as an environment records them."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
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
    """
    if settings.dtype != "auto":
        return settings.dtype
    if device == "cpu":
        return "bf16" if model == "bf16" else "fp32"
    return model or "fp16"


def describe(settings: Settings) -> str:
    """One line with the device and the precision of models that have none of their own."""
    device = resolve_device(settings)
    precision = resolve_precision(settings, None, device.type)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        return f"{device}, {properties.name}, {memory:.0f} GiB, {precision}"
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return f"{device}, {threads} a child, {precision}"


def main() -> None:
    """Print `describe`, or one line that says what is wrong. `imagemill doctor` runs this."""
    try:
        sys.stdout.write(describe(Settings.load()) + "\n")
    except SettingsError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
