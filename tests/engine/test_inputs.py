"""Input pictures: what is read, and what is refused in one line."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagemill.db.errors import InputImageError, UsageError
from imagemill.db.input_pictures import check_picture, read_picture
from imagemill.db.settings import Settings
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.model import Model
from tests.engine.pictures import Files, digest_of, encoded, left_half, scene
from tests.engine.rendering import pixels_of, render, spec_for


def _read(data: bytes) -> Image.Image:
    """A picture as a worker reads it, which submitting takes too."""
    check_picture(data, max_pixels=10_000)
    return read_picture(data, max_pixels=10_000)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_eight_bit_mode_becomes_rgb(mode: str) -> None:
    file_format = "JPEG" if mode == "CMYK" else "PNG"
    picture = _read(encoded(Image.new(mode, (8, 4)), file_format=file_format))
    assert picture.mode == "RGB"
    assert picture.size == (8, 4)


def test_a_rotated_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (8, 4)), file_format="JPEG", exif=exif)
    assert _read(data).size == (4, 8)


def _photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def _animation() -> bytes:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green")]
    return encoded(frames[0], file_format="PNG", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not an image", "not a readable image"),
        (b"", "not a readable image"),
        (scene()[:100], "not a readable image"),
        (encoded(_photograph(), file_format="JPEG")[:-400], "not a readable image"),
        (encoded(_photograph(), file_format="WEBP")[:-400], "not a readable image"),
        (_animation(), "animated"),
        (encoded(Image.new("RGB", (200, 100))), "200x100"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16))), "8 bits"),
        (encoded(Image.new("RGB", (4, 4)), file_format="GIF"), "not a readable image"),
    ],
    ids=["text", "empty", "truncated", "JPEG", "WebP", "animated", "too large", "16 bits", "gif"],
)
@pytest.mark.parametrize("reads", [check_picture, read_picture])
def test_anything_else_is_refused_in_one_line(reads: Any, data: bytes, words: str) -> None:
    with pytest.raises(InputImageError) as caught:
        reads(data, max_pixels=10_000)
    assert words in caught.value.message
    assert "; allowed: " in caught.value.message
    assert "\n" not in caught.value.message


def test_a_picture_of_another_size_is_resized(shapes64: Model, settings: Settings) -> None:
    large = scene((128, 128))
    small = io.BytesIO()
    Image.open(io.BytesIO(large)).resize((64, 64), Image.Resampling.LANCZOS).save(small, "PNG")
    files = Files(large, small.getvalue())
    specs = [spec_for(shapes64, init_image=digest, steps=4) for digest in files.by_digest]
    engine = open_engine(shapes64, specs[0].group(), settings, 2, inputs=files)
    one, other = render(engine, specs)

    assert (pixels_of(one) == pixels_of(other)).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"init_image": "f" * 64}, InputImageError),
        ({"mask": digest_of(left_half())}, UsageError),
        ({"init_image": digest_of(scene()), "strength": 0.1, "steps": 4}, UsageError),
    ],
    ids=["missing", "mask alone", "no step left"],
)
def test_what_can_not_start_fails_alone(
    changes: dict, expected: type[Exception], shapes64: Model, settings: Settings
) -> None:
    bad = spec_for(shapes64, **changes)
    files = Files(scene(), left_half())
    engine = open_engine(shapes64, bad.group(), settings, 2, inputs=files)
    [failed, good] = render(engine, [bad, spec_for(shapes64, steps=2)])

    assert isinstance(failed, Failed)
    assert isinstance(failed.error, expected)
    pixels_of(good)


def test_strength_decides_how_much_of_the_picture_stays(
    shapes64: Model, settings: Settings
) -> None:
    files = Files(scene())
    specs = [
        spec_for(shapes64, init_image=digest_of(scene()), strength=strength, steps=20)
        for strength in (0.1, 0.5, 1.0)
    ]
    engine = open_engine(shapes64, specs[0].group(), settings, 4, inputs=files)
    # The disc in the file is yellow, the prompt's circle red.
    green = [int(pixels_of(result)[32, 32, 1]) for result in render(engine, specs)]

    assert green[0] > 180
    assert green[0] > green[1] >= green[2]
    assert green[2] < 90


def test_a_neighbour_that_starts_from_a_picture_changes_nothing(
    shapes64: Model, settings: Settings
) -> None:
    # Its latents have another memory format, which a batch takes over from its first row.
    files = Files(scene())
    plain = spec_for(shapes64, sampler="unipc")
    variation = spec_for(shapes64, init_image=digest_of(scene()), strength=1.0, sampler="ddpm")
    engine = open_engine(shapes64, plain.group(), settings, 2, inputs=files)
    [alone] = render(engine, [plain])
    _, beside = render(engine, [variation, plain])

    assert (pixels_of(beside) == pixels_of(alone)).all()
