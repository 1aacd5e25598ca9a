"""The files of init images, masks and other input pictures: checked, and read.

Manifests and the pictures that they name can come from anybody. So every file that is not one
still picture of an acceptable size is refused, with an error of one line: when it is submitted,
and once more by the worker that reads it.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from imagemill.db.errors import InputImageError
from imagemill.db.storage.inputs import MAX_INPUT_BYTES

FORMATS = ("PNG", "JPEG", "WEBP")
_DEEP_MODES = ("I", "F")

_ORIENTATION = ExifTags.Base.Orientation
_LYING = (5, 6, 7, 8)
"""The values of EXIF's orientation that exchange width and height."""

_SCAN = b"\xff\xda"
_MOST_SCANS = 100
"""Encoders write about ten scans. Each scan costs a pass over the whole picture when decoded, but
only a hundred bytes in the file: a small file of very many scans would block a worker."""


def read_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes, turned upright, in RGB.

    Transparency is dropped, as diffusers does. Raises `InputImageError` if the file is not a PNG,
    JPEG or WebP, is broken or animated, has more than `max_pixels` pixels or more than 8 bits a
    channel, or is a JPEG of very many scans.
    """
    with _one_line(max_pixels):
        return ImageOps.exif_transpose(_opened(data, max_pixels)).convert("RGB")


def open_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes as it is, not decoded yet; raises as `read_picture` does."""
    with _one_line(max_pixels):
        return _opened(data, max_pixels)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height in pixels once the picture is turned upright; it is not decoded."""
    with suppress(OSError, SyntaxError, ValueError, struct.error):  # a broken EXIF turns nothing
        if picture.getexif().get(_ORIENTATION) in _LYING:
            return picture.height, picture.width
    return picture.width, picture.height


def check_picture(data: bytes, *, max_pixels: int) -> None:
    """Raise what `read_picture` would raise, without decoding more than that needs.

    A PNG has a checksum for each of its parts. Of a JPEG, an eighth of each side is computed.
    """
    with _one_line(max_pixels):
        picture = _opened(data, max_pixels)
        if picture.format == "PNG":
            picture.verify()
        else:
            picture.draft(None, (1, 1))
            picture.load()


def read_picture_file(path: Path, *, max_pixels: int) -> Image.Image:
    """Like `read_picture`, for a file of at most `MAX_INPUT_BYTES` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputImageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_INPUT_BYTES:
        raise InputImageError(f"{path}: more than {MAX_INPUT_BYTES:,} bytes")
    return read_picture(data, max_pixels=max_pixels)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """A picture that is allowed, not decoded yet."""
    with warnings.catch_warnings():
        # Pillow only warns at its own limit. Ours is checked below, before decoding.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > max_pixels:
        raise InputImageError(
            f"an input image of {picture.width}x{picture.height}; "
            f"allowed: {max_pixels:,} pixels in all"
        )
    if getattr(picture, "n_frames", 1) > 1:
        raise InputImageError("an animated input image; allowed: a still one")
    if picture.mode.startswith(_DEEP_MODES):
        raise InputImageError(f"an input image of mode {picture.mode}; allowed: 8 bits a channel")
    # Compressed data never contains the marker, so counting it counts the scans. Embedded
    # thumbnails add a few, far below the limit.
    if picture.format == "JPEG" and data.count(_SCAN) > _MOST_SCANS:
        raise InputImageError(
            f"an input image of {data.count(_SCAN):,} JPEG scans; allowed: {_MOST_SCANS}"
        )
    return picture


@contextmanager
def _one_line(max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises for files that it can't read into an `InputImageError`.

    Each of its messages ends with what is allowed.
    """
    allowed = ", ".join(FORMATS)
    try:
        yield
    except Image.DecompressionBombError as error:
        found = f"an input image that is too large: {error}"
        raise InputImageError(f"{found}; allowed: {max_pixels:,} pixels in all") from error
    except UnidentifiedImageError:
        raise InputImageError(f"not a readable image; allowed: {allowed}") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        # Pillow raises any of these for a broken file, depending on the format and the damage.
        raise InputImageError(f"not a readable image: {error}; allowed: {allowed}") from error
