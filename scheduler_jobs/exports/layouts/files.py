"""What layouts of single files share: write each picture once, and say what was written."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from imagemill.scheduler_jobs.exports.export import Export
from imagemill.scheduler_jobs.exports.pictures import Picture
from imagemill.scheduler_jobs.exports.selection import ExportImage
from imagemill.scheduler_jobs.picture_names import file_suffix


def write_pictures(
    export: Export, images: Iterable[ExportImage], stem: Callable[[ExportImage], str]
) -> Iterator[tuple[ExportImage, str, Picture]]:
    """Write each image's picture as `stem(image)` plus its suffix; yields it with the file's name.

    A file that an interrupted export left is whole, and stays. Its picture is made again only
    where its SHA-256 is not known without it. One that is signed is read: signed anew it would be
    another.
    """
    form = export.options.form

    def name_of(image: ExportImage) -> str:
        return f"{stem(image)}.{file_suffix(form.format_of(image))}"

    def is_known(image: ExportImage) -> bool:
        there = name_of(image) in export.present
        return there and (form.signer is not None or not form.changes(image))

    for image, picture in export.pictures(images, is_known=is_known):
        assert picture is not None  # of layouts of files only done images are asked for
        name = name_of(image)
        written = picture
        if name not in export.present:
            export.target.write(name, picture.body)
        elif form.signer is not None:
            body = export.target.read(name) or b""
            written = replace(picture, sha256=hashlib.sha256(body).hexdigest())
        export.advance()
        yield image, name, written
