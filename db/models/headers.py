"""The headers of safetensors files: names and shapes of tensors, read without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.db.errors import ModelError

_MOST_HEADER_BYTES = 100 << 20
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


def read_header(file: Path) -> Mapping[str, Any]:
    """The names, types and shapes in a safetensors file. Raises `ModelError` if it is none."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            if not 0 < length <= _MOST_HEADER_BYTES:
                raise ModelError(f"{file}: not a safetensors file")
            header = json.loads(opened.read(length))
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{file}: not a safetensors file") from None
    if not isinstance(header, dict):
        raise ModelError(f"{file}: not a safetensors file")
    return header


def read_shapes(file: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor in a whole safetensors file, by name.

    Raises `ModelError` if it is none, or shorter than its header says.
    """
    header = read_header(file)
    shapes, last = {}, 0
    try:
        for name, about in header.items():
            if name != _METADATA:
                shapes[name] = tuple(int(side) for side in about["shape"])
                last = max(last, int(about["data_offsets"][1]))
        with file.open("rb") as opened:
            begin = _LENGTH_BYTES + int.from_bytes(opened.read(_LENGTH_BYTES), "little")
    except (KeyError, IndexError, TypeError, ValueError):
        raise ModelError(f"{file}: not a safetensors file") from None
    size = file.stat().st_size
    if size < begin + last:
        raise ModelError(f"{file}: {size:,} bytes of {begin + last:,}: the file is cut short")
    return shapes
