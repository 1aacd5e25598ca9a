"""Small copies of pictures for pages: WebP without any of the texts in the original's file."""

import io

from PIL import Image

MEDIA_TYPE = "image/webp"
_QUALITY = 80


def thumbnail(body: bytes, side: int) -> bytes | None:
    """A copy of at most `side` x `side` pixels, never larger than the picture.

    None if the file can't be read as a picture.
    """
    try:
        with Image.open(io.BytesIO(body)) as opened:
            opened.draft("RGB", (side, side))
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()
