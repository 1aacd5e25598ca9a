"""Files that a command writes at its end: each has its name only when it is whole."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends well.

    So an earlier file of the name stays until the new one is whole, and for good where the disk is
    full. A symbolic link stays one. A pipe or a device is written directly: nothing may take its
    place. Raises `OSError`; one of the file itself has its name.
    """
    place = Path(os.path.realpath(file))
    part = place.with_name(f".{os.getpid()}.{place.name[:40]}.part")
    with naming(file, but_not=part), _opened(file, place, part) as stream:
        yield stream


@contextmanager
def naming(file: Path, *, but_not: Path | None = None) -> Iterator[None]:
    """Within the block, an `OSError` that names no file, or `but_not`, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(but_not)):
            raise OSError(error.errno, os.strerror(error.errno), str(file)) from error
        raise


@contextmanager
def _opened(file: Path, place: Path, part: Path) -> Iterator[BinaryIO]:
    there = _about(file)
    if there is not None and not stat.S_ISREG(there.st_mode):
        with file.open("wb") as stream:
            yield stream
        return
    try:
        with part.open("wb") as stream:
            if there is not None:
                shutil.copymode(place, part)
            yield stream
        part.replace(place)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _about(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None
