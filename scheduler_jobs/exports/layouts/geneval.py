"""`geneval`: the folders that GenEval's evaluator walks through.

`00003/metadata.jsonl` is the fourth row of the prompt file, as it stood there, and
`00003/samples/00000.png` its first picture.
Source: https://github.com/djghosh13/geneval (generation/diffusers_generate.py,
evaluation/evaluate_images.py).
"""

from collections.abc import Iterator
from itertools import groupby

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.contents import JSON, Contents
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures
from imagemill.scheduler_jobs.exports.selection import ExportImage

_ROWS = 100_000
"""Rows that five digits can number."""


def checked(images: Iterator[ExportImage]) -> Iterator[ExportImage]:
    """The images; a `UsageError` if they are of more than one job, or of too long a file."""
    job = None
    for image in images:
        job = job or image["job_id"]
        if image["job_id"] != job or image["row_number"] > _ROWS:
            raise UsageError(
                "geneval: its folders are numbered by the rows of one prompt file; "
                f"export one job, of at most {_ROWS:,} rows"
            )
        yield image


def contents(_plan: ExportPlan) -> Contents:
    """A folder a row: its line, and its pictures."""
    return Contents(pictures="*/samples/*", others={"*/metadata.jsonl": JSON})


def write(export: Export) -> None:
    """Write a folder a row: its line, then its pictures."""
    for row, images in groupby(export.images(), key=lambda image: int(image["row_number"])):
        _write_row(export, f"{row - 1:05}", list(images))


def _write_row(export: Export, folder: str, samples: list[ExportImage]) -> None:
    line = samples[0]["verbatim"].encode("utf-8", "surrogatepass")
    export.target.write(f"{folder}/metadata.jsonl", line)
    places = {image["image_id"]: place for place, image in enumerate(samples)}

    def stem(image: ExportImage) -> str:
        return f"{folder}/samples/{places[image['image_id']]:05}"

    for _ in write_pictures(export, samples, stem):
        pass
