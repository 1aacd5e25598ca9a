"""How a worker starts its children: as forks of itself, or as programs of their own.

On a CPU the parent imports torch and diffusers once and forks. So a child, also one that replaces
another, starts within a tenth of a second and shares the libraries' memory. A GPU's driver does not
survive a fork, and nobody knows which library wakes it while it is imported. So on a machine with
a GPU each child is a program of its own, which imports everything itself.
"""

import gc
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from imagemill.db.process.quick_import import quick_import
from imagemill.db.settings import Settings

FORK = "fork"
SPAWN = "spawn"

HEAVY_MODULE = "imagemill.worker.shifts.model_shelf"
"""What takes seconds to import, and every child needs."""

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""What Linux has where torch can compute on a GPU: NVIDIA's, AMD's, Windows' below it."""


def start_method(settings: Settings) -> str:
    """Celery's `worker_pool_start_method` for these settings, this build of torch and machine."""
    if settings.device == "auto":
        return FORK if _no_gpu_in_torch() or _no_gpu_here() else SPAWN
    return FORK if settings.device == "cpu" else SPAWN


def prepare_to_fork() -> None:
    """Import what every child needs. Call it in the parent, in its main thread."""
    quick_import(HEAVY_MODULE)
    # No collection of garbage looks at these objects any more. It would write to their memory, and
    # each child would get a copy of it.
    gc.freeze()


def _no_gpu_in_torch() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _no_gpu_here() -> bool:
    """PyPI's torch for Linux is the build with CUDA, on machines without a GPU too."""
    return sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS)
