"""The folder of `imagemill run`. It is made, or refused in one line, before anything else."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imagemill.db.errors import ImagemillError, ServiceError, UsageError
from imagemill.db.given_settings import DATABASE_FILE, OBJECTS_FOLDER

BROKER_FOLDER = "broker"

_FOLDERS = (OBJECTS_FOLDER, "pictures", BROKER_FOLDER)
_FILES = (DATABASE_FILE, "contact-sheet.png", "worker.log")
_LOADED = (OBJECTS_FOLDER, *(f"{DATABASE_FILE}{suffix}" for suffix in ("", "-wal", "-shm")))
"""What loading a job leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """The folder of a run, and what was there before."""

    path: Path
    before: frozenset[str]

    def empty(self) -> None:
        """Remove the database and the objects, unless they were there before this run.

        Only the holder of the folder's broker may do that, and only if no job was loaded there.
        """
        for name in set(_LOADED) - self.before:
            shutil.rmtree(self.path / name, ignore_errors=True)
            with suppress(OSError):
                (self.path / name).unlink()


@contextmanager
def run_folder(out: Path) -> Iterator[RunFolder]:
    """Make the folder for the block. An error of ours removes it if it is new and empty."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    before = frozenset() if new else _names(out)
    try:
        _make_folder(out)
        yield RunFolder(path=out, before=before)
    except ImagemillError:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _names(folder: Path) -> frozenset[str]:
    """The names in a folder; none if it can't be read, which `_make_folder` reports."""
    with suppress(OSError):
        return frozenset(each.name for each in folder.iterdir())
    return frozenset()


def _make_folder(out: Path) -> None:
    """Create the folder and test whether files can be made in it.

    Raises `UsageError` if it can't be used; the error names what is in the way.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            if (out / name).exists() and not (out / name).is_dir():
                raise UsageError(f"--out {out}: {name} is a file there, and must be a folder")
        for name in _FILES:
            if (out / name).is_dir():
                raise UsageError(f"--out {out}: {name} is a folder there, and must be a file")
        with tempfile.TemporaryFile(dir=out, prefix=".imagemill-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except FileExistsError:
        raise UsageError(f"--out {out}: there is a file of that name") from None
    except NotADirectoryError:
        raise UsageError(f"--out {out}: a part of this path is a file") from None
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ServiceError(f"--out {out}: can't be written: {error.strerror}") from None
        raise UsageError(
            f"--out {out}: can't be written: {error.strerror}; name a folder that you may write to"
        ) from None
