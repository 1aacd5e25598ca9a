"""The folder of readable names that `imagemill run` leaves beside the store.

Each name is a hard link to the stored file, or a copy if links can't be made. The store stays the
truth: no code reads these names, and a run makes those that are missing.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagemill.db.database import Database
from imagemill.db.errors import StorageError
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.scheduler_jobs.picture_names import PictureNames

_PAGE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedPictures:
    """How many pictures have a name, and how many names belong to another file."""

    folder: Path
    named: int
    taken: int


def name_pictures(
    database: Database, job_id: int, *, store: Path, folder: Path, names: PictureNames
) -> NamedPictures:
    """Give every done image of a job its name below `folder`. Names that exist stay.

    A name that belongs to another file is left alone and counted, because it may be somebody's
    own work.
    """
    named = taken = 0
    for image in _images(database, job_id):
        place = folder / names.name(image)  # for all images: names must not depend on states
        if image.object_key is None:
            continue
        source = store / image.object_key
        try:
            mine = _place(source, place)
        except FileNotFoundError:
            continue  # `verify` finds stored files that are lost
        except OSError as error:
            raise StorageError(f"{place}: can't be written: {error.strerror}") from error
        named += mine
        taken += not mine
    return NamedPictures(folder=folder, named=named, taken=taken)


def _images(database: Database, job_id: int) -> Iterator[ImageReport]:
    after = 0
    while True:
        with database.reading() as session:
            page = list_images(session, ImageFilter(job_id=job_id), limit=_PAGE, after=after)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].id


def _place(source: Path, place: Path) -> bool:
    """Make `place` hold the source's picture; False if another file is there."""
    try:
        there = place.lstat()
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(source, place)
        return True
    found = source.stat()
    if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
        return True
    return place.is_file() and filecmp.cmp(source, place, shallow=False)


def _link_or_copy(source: Path, place: Path) -> None:
    try:
        os.link(source, place, follow_symlinks=False)
    except FileExistsError:
        return  # another run was quicker
    except FileNotFoundError:
        raise
    except OSError:
        # Links can't be made here (exFAT, another disk, too many links). The copy gets its name
        # only when it is complete, so that one that was cut short does not look like a picture.
        unfinished = place.with_name(f".{os.getpid()}.{place.name}"[:200])
        try:
            shutil.copyfile(source, unfinished)
            unfinished.replace(place)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()
