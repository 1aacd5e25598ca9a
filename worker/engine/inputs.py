"""Init images and masks: fetched by content digest, read with suspicion.

A manifest comes from anywhere, and so do the pictures that it names: what is not one plain still
picture of a sane size is refused in one line.
"""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from imagemill.db.errors import InputImageError
from imagemill.db.storage.inputs import MAX_INPUT_BYTES

Inputs = Callable[[str], bytes]
"""SHA-256 (hex) of an input file → its bytes; an `InputImageError` if there is none."""

FORMATS = ("PNG", "JPEG", "WEBP")
_DEEP_MODES = ("I", "F")

_SCAN = b"\xff\xda"
_MOST_SCANS = 100
"""Encoders make about ten. Each is a pass over the whole picture, for a hundred bytes of file."""


def no_inputs(digest: str) -> bytes:
    """The `Inputs` of an engine that was given none."""
    raise InputImageError(f"input image {digest[:10]}… can't be fetched here")


def read_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes, upright, RGB; transparency is dropped, as diffusers does.

    An `InputImageError` says what is wrong: not a PNG, JPEG or WebP, broken, animated, more than
    `max_pixels`, more than 8 bits a channel, or a JPEG of very many scans.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own, looser limit: ours is checked below, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > max_pixels:
            raise InputImageError(
                f"an input image of {picture.width}x{picture.height} pixels; "
                f"allowed: {max_pixels:,} in all"
            )
        if getattr(picture, "n_frames", 1) > 1:
            raise InputImageError("an animated input image; allowed: a still one")
        if picture.mode.startswith(_DEEP_MODES):
            raise InputImageError(
                f"an input image of mode {picture.mode}; allowed: 8 bits a channel"
            )
        # In compressed data the marker can't stand; beside it there are thumbnails, with a few.
        if picture.format == "JPEG" and data.count(_SCAN) > _MOST_SCANS:
            raise InputImageError(
                f"an input image of {data.count(_SCAN):,} JPEG scans; allowed: {_MOST_SCANS}"
            )
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputImageError(f"an input image that is too large: {error}") from error
    except UnidentifiedImageError:
        raise InputImageError(f"not a readable image; allowed: {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        # What Pillow raises for a broken file, by format and by kind of damage.
        allowed = ", ".join(FORMATS)
        raise InputImageError(f"not a readable image: {error}; allowed: {allowed}") from error


def read_picture_file(path: Path, *, max_pixels: int) -> Image.Image:
    """As `read_picture`, of a file of at most `MAX_INPUT_BYTES`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputImageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_INPUT_BYTES:
        raise InputImageError(f"{path}: more than {MAX_INPUT_BYTES:,} bytes")
    return read_picture(data, max_pixels=max_pixels)
