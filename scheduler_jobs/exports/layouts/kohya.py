"""`kohya`: a picture and its caption in a text file of the same name, as trainers read them.

Source: https://github.com/kohya-ss/sd-scripts (docs/train_README-en.md, "caption files").
"""

from imagemill.scheduler_jobs.exports.contents import Contents
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts.files import write_pictures

NAME = "{row_number:06}-{sample_index:03}"


def contents(_plan: ExportPlan) -> Contents:
    """Pictures, and a caption beside each."""
    return Contents(pictures="*", others={"*.txt": "text/plain"})


def write(export: Export) -> None:
    """Write each picture and its caption."""
    for split in export.split_names:
        images = export.images(split)
        for image, name, _ in write_pictures(export, images, export.stem_in(split)):
            caption = image["prompt"].encode("utf-8", "backslashreplace")
            export.target.write(f"{name.rpartition('.')[0]}.txt", caption)
