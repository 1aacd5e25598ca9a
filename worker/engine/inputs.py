"""Init images and masks: fetched by content digest, read with suspicion.

A manifest comes from anywhere, and so do the pictures that it names: what is not one plain still
picture of a sane size is refused in one line.
"""

import io
import warnings
from collections.abc import Callable

from PIL import Image, ImageOps

from db.errors import InputImageError

Inputs = Callable[[str], bytes]
"""SHA-256 (hex) of an input file → its bytes; an `InputImageError` if there is none."""

FORMATS = ("PNG", "JPEG", "WEBP")
_DEEP_MODES = ("I", "F")


def no_inputs(digest: str) -> bytes:
    """The `Inputs` of an engine that was given none."""
    raise InputImageError(f"input image {digest[:10]}… can't be fetched here")


def read_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes, upright, RGB; transparency is dropped, as diffusers does.

    An `InputImageError` says what is wrong: not a PNG, JPEG or WebP, broken, animated, more than
    `max_pixels`, or more than 8 bits a channel.
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
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputImageError(f"an input image that is too large: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow tells broken files in all three ways.
        allowed = ", ".join(FORMATS)
        raise InputImageError(f"not a readable image: {error}; allowed: {allowed}") from error
