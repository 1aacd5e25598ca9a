"""How often the watermark is read back: `python -m benchmarks.watermark [--pictures N]`.

Marks N pictures of each kind, does to them what happens to pictures, and prints the share that is
read back, in percent; the distance from the unmarked ones, and how many of those read as marked.
"""

import argparse
import io
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw

from imagemill.scheduler_jobs.exports.marks.watermark import add_watermark, read_watermark

TEXT = "my-lab 2026/11"
SIDE = 512

Change = Callable[[Image.Image], Image.Image]


def texture(random: np.random.Generator) -> Image.Image:
    """The spectrum of photographs: 1/f, in three colours that go together."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = 1
    planes = [
        np.fft.ifft2(np.fft.fft2(random.normal(size=(SIDE, SIDE))) / frequency**1.2).real
        for _ in range(4)
    ]
    pixels = np.stack([planes[0] + 0.5 * plane for plane in planes[1:]], axis=-1)
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 128
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def shapes(random: np.random.Generator) -> Image.Image:
    """Plain shapes on plain ground, many of them black, white or fully coloured."""

    def colour() -> tuple[int, ...]:
        return tuple(int(value) for value in random.choice([0, 64, 128, 200, 255], 3))

    picture = Image.new("RGB", (SIDE, SIDE), colour())
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        left, top = random.integers(0, 400, 2)
        width, height = random.integers(40, 200, 2)
        draw.ellipse([left, top, left + width, top + height], fill=colour())
    return picture


def saved(image_format: str, quality: int) -> Change:
    """Saved and opened again."""

    def change(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, image_format, quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def scaled(scale: float) -> Change:
    """Resized."""

    def change(picture: Image.Image) -> Image.Image:
        size = (round(picture.width * scale), round(picture.height * scale))
        return picture.resize(size, Image.Resampling.LANCZOS)

    return change


CHANGES: Mapping[str, Change] = {
    "untouched": lambda picture: picture,
    "JPEG 90": saved("JPEG", 90),
    "JPEG 70": saved("JPEG", 70),
    "JPEG 50": saved("JPEG", 50),
    "WebP 80": saved("WEBP", 80),
    "half the size": scaled(0.5),
    "one and a half times the size": scaled(1.5),
    "three quarters of the size, then JPEG 90": lambda picture: saved("JPEG", 90)(
        scaled(0.75)(picture)
    ),
    "a quarter of the size": scaled(0.25),
}


def main() -> None:
    """Mark, change, read, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark", description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    count = parser.parse_args().pictures
    for name, make in {"1/f": texture, "shapes": shapes}.items():
        read: Counter[str] = Counter()
        wrong, distances = 0, []
        for seed in range(count):
            picture = make(np.random.default_rng(seed))
            wrong += read_watermark(picture) is not None
            marked = add_watermark(picture, TEXT)
            error = np.mean((np.asarray(marked, float) - np.asarray(picture, float)) ** 2)
            distances.append(10 * np.log10(255**2 / error))
            for change, apply in CHANGES.items():
                read[change] += read_watermark(apply(marked)) == TEXT
        print(
            f"{name}: {count} pictures, {np.mean(distances):.1f} dB on average, at least "
            f"{min(distances):.1f} dB; {wrong} unmarked ones read as marked"
        )
        for change in CHANGES:
            print(f"    {change}: {100 * read[change] / count:.1f} %")


if __name__ == "__main__":
    main()
