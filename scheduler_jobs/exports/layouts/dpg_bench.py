"""`dpg-bench`: one picture a prompt, its four samples as a grid of 2 x 2, named as its prompt file.

Source: https://github.com/TencentQQGYLab/ELLA (dpg_bench/compute_dpg_bench.py, `crop_image`).
"""

import io
from collections.abc import Iterator
from itertools import groupby

from PIL import Image

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.contents import Contents
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.pictures import Picture, png_bytes
from imagemill.scheduler_jobs.exports.selection import ExportImage

SAMPLES = 4


def checked(images: Iterator[ExportImage]) -> Iterator[ExportImage]:
    """The images; a `UsageError` for a row without a name, or without four pictures of one size."""
    for row, found in groupby(images, key=lambda image: (image["job_id"], image["row_number"])):
        samples = list(found)
        key = samples[0]["row_key"]
        if not key or "/" in key or key.startswith(".") or len(key.encode("utf-8")) > 200:
            raise UsageError(
                f"dpg-bench: row {row[1]} has no id that can name a file; DPG-Bench's own "
                "prompts, a folder of .txt files, have their files' names"
            )
        sizes = {(image["width"], image["height"]) for image in samples}
        if len(samples) != SAMPLES or len(sizes) > 1:
            raise UsageError(
                f"dpg-bench: row {row[1]} ({key}) has {len(samples)} "
                f"{'picture' if len(samples) == 1 else 'pictures'}"
                f"{f' of {len(sizes)} sizes' if len(sizes) > 1 else ''}; "
                f"a grid needs {SAMPLES} of one size (--samples {SAMPLES})"
            )
        yield from samples


def contents(_plan: ExportPlan) -> Contents:
    """Grids of pictures."""
    return Contents(pictures="*")


def write(export: Export) -> None:
    """Write a grid a row."""
    for _, images in groupby(
        export.images(), key=lambda image: (image["job_id"], image["row_number"])
    ):
        samples = list(images)
        name = f"{samples[0]['row_key']}.png"
        if name not in export.present:
            pictures = [picture for _, picture in export.pictures(samples) if picture is not None]
            export.target.write(name, png_bytes(_grid(pictures)))
        export.advance(len(samples))


def _grid(pictures: list[Picture]) -> Image.Image:
    """Four pictures, row by row from the top left."""
    width, height = pictures[0].width, pictures[0].height
    grid = Image.new("RGB", (2 * width, 2 * height))
    for place, picture in enumerate(pictures):
        with Image.open(io.BytesIO(picture.body)) as opened:
            grid.paste(opened.convert("RGB"), (place % 2 * width, place // 2 * height))
    return grid
