"""An invisible watermark: a short text in a picture's pixels, which survives JPEG and resizing.

The luminance is brought to 128 x 128 and transformed (DCT), so every size of the picture has the
same coefficients. Each bit of the text is carried by some of them in middle frequencies: their sum
under fixed signs is moved to the nearest value of one of two interleaved lattices. A cut edge, a
rotation, or whoever wants to remove it, destroys it: it labels pictures, and protects nothing.

Source: B. Chen and G. W. Wornell, "Quantization Index Modulation", IEEE Transactions on
Information Theory 47 (2001): spread-transform dither modulation.
"""

import zlib
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagemill.db.errors import UsageError

TEXT_BYTES = 16
SMALLEST_SIDE = 128
"""In pixels. Below, the middle frequencies would be those that JPEG throws away."""

_SIDE = 128
_LOWEST, _HIGHEST = 6, 40
"""The radius of the coefficients that carry the text."""

_STEP = 48.0
"""Between two values of one lattice. Larger survives more, and shows more."""

_PASSES = 8
_CHECK_BYTES = 2
_BITS = 8 * (TEXT_BYTES + _CHECK_BYTES)

Floats = npt.NDArray[np.float64]


def check_text(text: str) -> None:
    """A `UsageError` for a text that is no watermark."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= TEXT_BYTES or "\0" in text or not text.isprintable():
        raise UsageError(
            f"--watermark: {size} bytes; a watermark is a printable text of 1 to {TEXT_BYTES}"
        )


def check_size(size: tuple[int, int]) -> None:
    """A `UsageError` for a picture (width and height in pixels) that is too small for one."""
    if min(size) < SMALLEST_SIDE:
        raise UsageError(
            f"--watermark: a picture of {size[0]}x{size[1]} is too small; "
            f"each side needs {SMALLEST_SIDE} pixels"
        )


def add_watermark(picture: Image.Image, text: str) -> Image.Image:
    """The picture, RGB, with a text in it. A `UsageError` if it is too small or can't hold it.

    Pixels that are black or white already can't be moved further. So it is written several times,
    each time what still lacks.
    """
    check_size(picture.size)
    bits = _bits(text)
    original = np.asarray(picture, np.float64)
    change = np.zeros((picture.height, picture.width))
    marked = picture
    for _ in range(_PASSES):
        lacking = _lacking(_luminance(marked), bits)
        if np.abs(lacking).max() < _STEP / 8:
            break
        change += _resized(_picture_of(lacking), picture.size)
        pixels = np.clip(np.rint(original + change[:, :, None]), 0, 255)
        marked = Image.fromarray(pixels.astype(np.uint8))
    if read_watermark(marked) != text:
        raise UsageError("--watermark: a picture with too much plain black or white can't hold it")
    return marked


def read_watermark(picture: Image.Image) -> str | None:
    """The text in a picture of any size; None if there is none."""
    sums = _sums(_luminance(picture.convert("RGB")))
    data = np.packbits(np.rint(sums / (_STEP / 2)).astype(np.int64) % 2 == 1).tobytes()
    text, check = data[:TEXT_BYTES], data[TEXT_BYTES:]
    if check != _check(text) or not text.strip(b"\0"):
        return None
    return text.rstrip(b"\0").decode("utf-8", "replace")


def _bits(text: str) -> npt.NDArray[np.uint8]:
    data = text.encode().ljust(TEXT_BYTES, b"\0")
    return np.unpackbits(np.frombuffer(data + _check(data), np.uint8))


def _check(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")[:_CHECK_BYTES]


@cache
def _carriers() -> tuple[npt.NDArray[np.int64], Floats]:
    """For each bit the places of its coefficients and their signs, both (bits, coefficients).

    They are the same for everybody: the text is no secret. The signs have length 1 for each bit.
    """
    row, column = np.mgrid[:_SIDE, :_SIDE]
    radius = np.hypot(row, column).ravel()
    places = np.flatnonzero((radius >= _LOWEST) & (radius < _HIGHEST))
    random = np.random.Generator(np.random.PCG64(64))
    share = len(places) // _BITS
    chosen = random.permutation(places)[: share * _BITS].reshape(_BITS, share)
    signs = random.choice([-1.0, 1.0], size=chosen.shape) / np.sqrt(share)
    return chosen, signs


def _luminance(picture: Image.Image) -> Floats:
    pixels = np.asarray(picture, np.float64) @ np.array([0.299, 0.587, 0.114])
    return _resized(pixels, (_SIDE, _SIDE))


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float64)


def _sums(luminance: Floats) -> Floats:
    from scipy.fft import dctn  # noqa: PLC0415  # slow to load, and few exports are marked

    places, signs = _carriers()
    coefficients = dctn(luminance, norm="ortho").ravel()
    return np.asarray((coefficients[places] * signs).sum(axis=1))


def _lacking(luminance: Floats, bits: npt.NDArray[np.uint8]) -> Floats:
    """By how much each bit's sum must move to stand on its lattice."""
    sums = _sums(luminance)
    offset = bits * (_STEP / 2)
    return np.asarray(np.rint((sums - offset) / _STEP) * _STEP + offset - sums)


def _picture_of(lacking: Floats) -> Floats:
    """The luminance that moves the sums by so much."""
    from scipy.fft import idctn  # noqa: PLC0415  # slow to load, and few exports are marked

    places, signs = _carriers()
    coefficients = np.zeros(_SIDE * _SIDE)
    coefficients[places] = signs * lacking[:, None]
    return np.asarray(idctn(coefficients.reshape(_SIDE, _SIDE), norm="ortho"))
