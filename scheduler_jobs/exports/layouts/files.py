"""What layouts of single files share: write each picture once, and say what was written."""

from collections.abc import Callable, Iterable, Iterator

from imagemill.scheduler_jobs.exports.export import Export
from imagemill.scheduler_jobs.exports.pictures import Picture
from imagemill.scheduler_jobs.exports.selection import ExportImage
from imagemill.scheduler_jobs.picture_names import file_suffix


def write_pictures(
    export: Export, images: Iterable[ExportImage], stem: Callable[[ExportImage], str]
) -> Iterator[tuple[ExportImage, str, Picture]]:
    """Write each image's picture as `stem(image)` plus its suffix; yields it with the file's name.

    A file that an interrupted export left is whole, and stays. Its picture is made again only
    where its SHA-256 is not known without it.
    """
    form = export.options.form

    def name_of(image: ExportImage) -> str:
        return f"{stem(image)}.{file_suffix(form.format_of(image))}"

    def is_known(image: ExportImage) -> bool:
        return name_of(image) in export.present and not form.changes(image)

    for image, picture in export.pictures(images, is_known=is_known):
        assert picture is not None  # of layouts of files only done images are asked for
        name = name_of(image)
        if name not in export.present:
            export.target.write(name, picture.body)
        export.advance()
        yield image, name, picture
