"""Scorers without a model: known pictures have known scores."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagemill.worker.scores import Scorer
from imagemill.worker.scores.plain import Blank, Colourfulness, Entropy, PerceptualHash, Sharpness
from imagemill.worker.scores.shelf import checked

NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
RED = Image.new("RGB", (64, 64), (255, 0, 0))
GREY = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None] * 4, 64, 1)).convert("RGB")


def one(scorer: Scorer, picture: Image.Image) -> Any:
    (scores,) = scorer.score([picture], [])
    assert set(scores) == set(scorer.yields)
    return next(iter(scores.values()))


def test_sharpness_falls_with_blur_and_is_zero_for_one_colour() -> None:
    blurred = NOISE.filter(ImageFilter.GaussianBlur(2))
    assert one(Sharpness(), NOISE) > 10 * one(Sharpness(), blurred) > 0
    assert one(Sharpness(), RED) == 0
    line = Image.fromarray(np.diag(np.full(3, 90, np.uint8)))
    # Laplacians: -270, 180, 0 / 180, -360, 180 / 0, 180, -270, with the edges repeated.
    values = [[-180, 180, 0], [180, -360, 180], [0, 180, -180]]
    assert one(Sharpness(), line) == pytest.approx(np.var(values))


def test_entropy_counts_grey_levels() -> None:
    assert one(Entropy(), RED) == 0
    assert one(Entropy(), GREY) == pytest.approx(6)  # 64 levels, equally often


def test_colourfulness_is_that_of_the_paper() -> None:
    assert one(Colourfulness(), GREY) == 0
    # One colour has no spread: 0.3 x the length of (R - G, (R + G) / 2 - B).
    assert one(Colourfulness(), RED) == pytest.approx(0.3 * math.hypot(255, 127.5))
    halves = RED.copy()
    halves.paste((0, 255, 0), (0, 0, 32, 64))
    assert one(Colourfulness(), halves) == pytest.approx(255 + 0.3 * 127.5)


def test_blank_is_one_colour_with_at_most_a_little_noise() -> None:
    assert one(Blank(), RED) == 1
    assert one(Blank(), NOISE) == 0
    nearly = np.asarray(RED).copy()
    nearly[::2, :, 0] -= np.uint8(1)
    assert one(Blank(), Image.fromarray(nearly)) == 1


def test_a_perceptual_hash_changes_little_with_the_picture() -> None:
    def bits(picture: Image.Image) -> int:
        return int(one(PerceptualHash(), picture), 16)

    smaller = NOISE.resize((60, 60), Image.Resampling.LANCZOS)
    assert (bits(NOISE) ^ bits(smaller)).bit_count() < 16
    assert (bits(NOISE) ^ bits(GREY)).bit_count() > 16


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([], "0 results for 1 pictures"),
        ([{"other": 1.0}], "does not name"),
        ([{"blank": math.nan}], "its blank is nan"),
        ([{"blank": None}], "must be"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        checked(Blank(), answer, 1)
