"""Files that a command writes at its end: whether it can is found out before the work."""

import os
from pathlib import Path

from imagemill.db.errors import UsageError


def check_place(file: Path) -> None:
    """A `UsageError` unless a file of that name can be written; nothing is created."""
    folder = file.absolute().parent
    if not os.path.isdir(folder):  # noqa: PTH112  # False also where nobody may look
        raise UsageError(f"{file}: can't be written: there is no folder {folder}")
    if len(os.fsencode(file.name)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise UsageError(f"{file.name[:40]}…: can't be written: the name is too long")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise UsageError(f"{file}: can't be written: permission denied, or a read-only disk")
