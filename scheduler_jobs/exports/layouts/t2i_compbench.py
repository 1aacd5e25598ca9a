"""`t2i-compbench`: `samples/{prompt}_{000000}.png`, numbered over the whole set.

Its evaluators read the prompt back from the file's name, up to the first `_`.
Source: https://github.com/Karine-Huang/T2I-CompBench (inference_eval.py, BLIPvqa_eval).
"""

from collections.abc import Iterator

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.contents import Contents
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures
from imagemill.scheduler_jobs.exports.selection import ExportImage

_MOST_BYTES = 255 - len("_000000.png")
"""What a file system leaves for the prompt."""


def checked(images: Iterator[ExportImage]) -> Iterator[ExportImage]:
    """The images; a `UsageError` for a prompt that no file name can hold as it is."""
    for image in images:
        prompt = image["prompt"]
        if any(c in prompt for c in "/_\0\n") or len(prompt.encode("utf-8")) > _MOST_BYTES:
            raise UsageError(
                f"t2i-compbench: row {image['row_number']}: its prompt is part of a file's name, "
                f"so it can't hold '/', '_' or a new line, nor more than {_MOST_BYTES} bytes"
            )
        yield image


def contents(_plan: ExportPlan) -> Contents:
    """Pictures alone."""
    return Contents(pictures="samples/*")


def write(export: Export) -> None:
    """Write the pictures under their prompts."""
    numbers = iter(range(export.plan.images))
    names: dict[int, str] = {}

    def stem(image: ExportImage) -> str:
        return names[image["image_id"]]

    def numbered() -> Iterator[ExportImage]:
        for image in export.images():
            names[image["image_id"]] = f"samples/{image['prompt']}_{next(numbers):06}"
            yield image

    for image, _, _ in write_pictures(export, numbered(), stem):
        del names[image["image_id"]]
