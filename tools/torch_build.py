"""Print the options that make pip install the right build of torch for this machine.

PyPI's torch for Linux is the CUDA build, which has gigabytes. Where there is no NVIDIA GPU, pip
also asks PyTorch's own index of CPU builds. If that index does not answer, pip asks only the
indexes that it is configured with.
"""

import shutil
import sys
import urllib.request
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DRIVER = Path("/proc/driver/nvidia")


def has_gpu(driver: Path = DRIVER) -> bool:
    """Whether this machine has NVIDIA's driver."""
    return driver.exists() or shutil.which("nvidia-smi") is not None


def reachable(index: str) -> bool:
    """Whether an index answers within seconds."""
    request = urllib.request.Request(f"{index}/torch/", method="HEAD")  # noqa: S310  # https
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            return True
    except (OSError, ValueError):
        return False


def choice(*, gpu: bool, cpu_index: bool) -> tuple[list[str], str]:
    """The options for pip, and one line that says why."""
    if gpu:
        return [], "torch for Linux: an NVIDIA GPU is here, so PyPI's CUDA build"
    if cpu_index:
        return ["--extra-index-url", CPU_INDEX], "torch for Linux: no GPU, so PyTorch's CPU build"
    return (
        [],
        f"torch for Linux: no GPU; {CPU_INDEX} does not answer, so the build of pip's own index",
    )


if __name__ == "__main__":
    gpu = has_gpu()
    options, why = choice(gpu=gpu, cpu_index=not gpu and reachable(CPU_INDEX))
    print(why, file=sys.stderr)
    print(*options)
