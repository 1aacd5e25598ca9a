"""Init images and masks: fetched by content digest, checked before they are decoded.

Manifests and the pictures that they name can come from anybody. So every file that is not one
still picture of an acceptable size is refused, with an error of one line.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from imagemill.db.errors import InputImageError
from imagemill.db.specs import ImageSpec
from imagemill.db.storage.inputs import MAX_INPUT_BYTES

Inputs = Callable[[str], bytes]
"""SHA-256 (hex) of an input file → its bytes. Raises `InputImageError` if there is no such file."""

FORMATS = ("PNG", "JPEG", "WEBP")
_DEEP_MODES = ("I", "F")

_SCAN = b"\xff\xda"
_MOST_SCANS = 100
"""Encoders write about ten scans. Each scan costs a pass over the whole picture when decoded, but
only a hundred bytes in the file: a small file of very many scans would block a worker."""


def strength_of(spec: ImageSpec) -> float:
    """How much of an init image is drawn anew: 0.8 if nothing is said, as in diffusers.

    With a mask that is 1: everything under the mask is drawn anew.
    """
    usual = 0.8 if spec.mask is None else 1.0
    return usual if spec.strength is None else spec.strength


def no_inputs(digest: str) -> bytes:
    """The `Inputs` of an engine that has no source of input files: always raises."""
    raise InputImageError(f"input image {digest[:10]}… can't be fetched here")


@cache
def known_picture() -> tuple[str, bytes]:
    """The digest and the bytes of a picture that is always at hand: a disc, in PNG.

    The certificate's rows use it where their group needs a picture.
    """
    picture = Image.new("RGB", (64, 64), "blue")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill="yellow")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def with_known_picture(inputs: Inputs) -> Inputs:
    """These inputs and the known picture."""
    known, data = known_picture()
    return lambda digest: data if digest == known else inputs(digest)


def read_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes, turned upright, in RGB.

    Transparency is dropped, as diffusers does. Raises `InputImageError` if the file is not a PNG,
    JPEG or WebP, is broken or animated, has more than `max_pixels` pixels or more than 8 bits a
    channel, or is a JPEG of very many scans.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns at its own limit. Ours is checked below, before decoding.
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
        # Compressed data never contains the marker, so counting it counts the scans. Embedded
        # thumbnails add a few, far below the limit.
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
        # Pillow raises any of these for a broken file, depending on the format and the damage.
        allowed = ", ".join(FORMATS)
        raise InputImageError(f"not a readable image: {error}; allowed: {allowed}") from error


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
