"""Scorers that need no model: hashes, sharpness, entropy, colourfulness, blank pictures."""

from collections.abc import Sequence

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from imagemill.worker.scores import ScoredImage, Scores

BLANK_SPREAD = 1.0
"""The standard deviation, of 255, up to which a channel counts as one colour."""

Pixels = NDArray[np.float64]


class PerceptualHash:
    """pHash of ImageHash: 64 bits from the low frequencies of a 32x32 discrete cosine transform."""

    yields = ("phash",)

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """16 hex digits each."""
        del records
        return [{"phash": str(imagehash.phash(picture))} for picture in pictures]


class Sharpness:
    """Variance of the Laplacian (Pech-Pacheco et al., 2000) of the grey picture, 0 to 255."""

    yields = ("sharpness",)

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """The larger, the sharper; comparable among pictures of one size."""
        del records
        return [{"sharpness": _laplacian_variance(_grey(picture))} for picture in pictures]


class Entropy:
    """Shannon entropy of the grey histogram."""

    yields = ("entropy",)

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """Bits, 0 to 8."""
        del records
        return [{"entropy": float(picture.convert("L").entropy())} for picture in pictures]


class Colourfulness:
    """M of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003), eq. 9."""

    yields = ("colourfulness",)

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """0 for grey; 33 is moderately, above 100 extremely colourful."""
        del records
        return [{"colourfulness": _colourfulness(_rgb(picture))} for picture in pictures]


class Blank:
    """Pictures in one colour, those with a little noise included."""

    yields = ("blank",)

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """1 or 0."""
        del records
        spreads = (float(_rgb(picture).std(axis=(0, 1)).max()) for picture in pictures)
        return [{"blank": float(spread <= BLANK_SPREAD)} for spread in spreads]


def _grey(picture: Image) -> Pixels:
    """Height x width, 0 to 255."""
    return np.asarray(picture.convert("L"), np.float64)


def _rgb(picture: Image) -> Pixels:
    """Height x width x 3, 0 to 255."""
    return np.asarray(picture.convert("RGB"), np.float64)


def _laplacian_variance(grey: Pixels) -> float:
    """With the kernel of four neighbours; pixels at the border count with their own value."""
    around = np.pad(grey, 1, mode="edge")
    sides = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    return float((sides - 4 * grey).var())


def _colourfulness(rgb: Pixels) -> float:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread = np.linalg.norm(opponents.std(axis=(1, 2)))
    distance = np.linalg.norm(opponents.mean(axis=(1, 2)))
    return float(spread + 0.3 * distance)
