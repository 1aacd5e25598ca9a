"""Input files for tests: drawn, encoded, and named by digest."""

import hashlib
import io
from collections.abc import Mapping

from PIL import Image, ImageDraw

from imagemill.db.errors import InputImageError


def encoded(picture: Image.Image, *, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def scene(size: tuple[int, int] = (64, 64)) -> bytes:
    """A yellow disc on blue."""
    picture = Image.new("RGB", size, "blue")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill="yellow")
    return encoded(picture)


def left_half(size: tuple[int, int] = (64, 64)) -> bytes:
    """A mask that lets the model draw in the left half."""
    picture = Image.new("L", size, 0)
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    return encoded(picture)


class Files:
    """Inputs by digest, as an engine asks for them."""

    def __init__(self, *files: bytes) -> None:
        self.by_digest: Mapping[str, bytes] = {digest_of(data): data for data in files}

    def __call__(self, digest: str) -> bytes:
        if digest not in self.by_digest:
            raise InputImageError(f"no input image {digest[:10]}…")
        return self.by_digest[digest]
