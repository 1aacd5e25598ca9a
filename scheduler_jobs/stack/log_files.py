"""The log files of a stack: kept small by the supervisor, read by `imagemill logs`."""

import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 10_000_000
KEPT_FILES = 3
_LOOK_SECONDS = 0.25


def rotate(folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Make `name.log` empty when it is too long; its lines go to `name.log.1`, and so on.

    The processes that write keep their file open, and all append to it. So the file is copied and
    cut, not renamed; lines that come in between are lost. A file that can't be copied, as on a full
    disk, stays as it is until the next time.
    """
    for file in folder.glob("*.log"):
        with suppress(OSError):
            if file.stat().st_size > most_bytes:
                _rotate(file)


def _rotate(file: Path) -> None:
    copy = file.with_name(f"{file.name}.new")
    try:
        shutil.copy2(file, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    for number in range(KEPT_FILES - 1, 0, -1):
        with suppress(FileNotFoundError):
            _older(file, number).replace(_older(file, number + 1))
    copy.replace(_older(file, 1))
    with file.open("r+b") as opened:
        opened.truncate(0)


def last_lines(file: Path, count: int) -> list[str]:
    """The last lines of a log; none if there is no such file yet."""
    with suppress(FileNotFoundError), file.open(encoding="utf-8", errors="replace") as opened:
        return [line.rstrip("\n") for line in deque(opened, maxlen=count)]
    return []


def follow(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Each line that the files get after this call, with the name of its file. Never ends."""
    return _new_lines(files, {name: _size(file) for name, file in files.items()})


def _new_lines(files: Mapping[str, Path], places: dict[str, int]) -> Iterator[tuple[str, str]]:
    while True:
        for name, file in files.items():
            if _size(file) < places[name]:
                places[name] = 0  # rotated
            lines, places[name] = _complete_lines(file, places[name])
            yield from ((name, line) for line in lines)
        time.sleep(_LOOK_SECONDS)


def _complete_lines(file: Path, place: int) -> tuple[list[str], int]:
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(place)
        text = opened.read()
        complete = text[: text.rfind(b"\n") + 1]
        return complete.decode("utf-8", "replace").splitlines(), place + len(complete)
    return [], place


def _size(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _older(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number}")
