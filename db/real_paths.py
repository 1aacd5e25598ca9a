"""Paths without symbolic links."""

import os
from pathlib import Path


def real_path(path: Path) -> Path:
    """The absolute path with every link followed, whether anything is there or not.

    `Path.resolve` raises `RuntimeError` for links that lead in a circle, before Python 3.13. Here
    such a path stays as it is, and whoever opens it gets the system's own error.
    """
    return Path(os.path.realpath(path))
